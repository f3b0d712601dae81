"""`test_kills.py` starts this: a command is started and killed again and again until it is done.

A kill waits for a state, not for a time: the command tells when it has called so many functions of
the package, and is killed then, wherever it is. Every other one kills itself while it writes.
"""

import contextlib
import importlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  the processes below are forks: they need not import it again

import lgermt
import lgermt.viz.report  # noqa: F401  for the same reason

PACKAGE = str(Path(lgermt.__file__).parent)
FIRST_REACH = 3000  # calls until a kill at any place, at most; a training of eight steps has 8,500


def check_files(folder):
    "Asserts that everything that has its final name can be read."
    for path in folder.rglob("[!.]*"):
        if path.name == "last.pt":
            assert torch.load(path, weights_only=True)["iteration"] > 0
        if path.suffix == ".json":
            json.loads(path.read_text())


def die_writing(count):
    "Lets this process kill itself in its `count`-th file: written, perhaps half, not yet renamed."
    sync = os.fsync
    calls = 0

    def fsync(descriptor):
        nonlocal calls
        calls += 1
        if calls == count:
            file = Path(f"/proc/self/fd/{descriptor}")
            if count % 2 and file.exists():
                os.truncate(file, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = fsync


def count_calls(report, when):
    "Counts calls of the package's functions from now on; reports the `when`-th. The counter."
    calls = [0]

    def trace(frame, event, argument):
        if frame.f_code.co_filename.startswith(PACKAGE):
            calls[0] += 1
            if calls[0] == when:
                os.write(report, b"reached")

    sys.settrace(trace)
    return calls


def start(module, arguments, writing, when):
    "Starts the command in a fork, which dies in its `writing`-th file. Its number, its reports."
    receive, report = os.pipe()
    number = os.fork()
    if number:
        os.close(report)
        return number, receive
    code = 1
    try:
        os.close(receive)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if writing:
                die_writing(writing)
            calls = count_calls(report, when)
            module.main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.settrace(None)
        os.write(report, b" ended after %d" % calls[0])
        sys.stderr.flush()
        os._exit(code)


def end(number, receive, kill):
    "Waits for a command, and kills it where it reports; its exit code and number of calls."
    said = os.read(receive, 100)  # nothing once the command is dead
    if kill and said.startswith(b"reached"):
        os.kill(number, signal.SIGKILL)  # a zombie if it has ended in the meantime
    with open(receive, "rb") as rest:
        said += rest.read()
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    return code, int(said.split()[-1]) if b"ended" in said else 0


def job(name, folder, kills, arguments):
    "Kills a command `kills` times, then lets it end; the files are whole each time. Kinds of kill."
    module = importlib.import_module(f"lgermt.{name}")
    folder = Path(folder)
    draw = random.Random(folder.name)
    kinds = []
    reach = FIRST_REACH
    for attempt in range(10 * kills + 1):
        resume = ["--resume"] if name == "train" and (folder / "config.json").exists() else []
        killing = len(kinds) < kills
        writing = killing and len(kinds) % 2 == 1  # every other kill comes while a file is written
        anywhere = killing and not writing
        file = draw.randrange(1, 7) if writing else 0
        when = draw.randrange(1, int(reach)) if anywhere else 0
        code, calls = end(*start(module, [*arguments, *resume], file, when), anywhere)
        assert code in (0, -signal.SIGKILL), f"attempt {attempt} ended with {code}"
        check_files(folder)
        if code == 0 and not killing:
            return kinds
        if code == 0:  # it ended before the kill; a finished run that starts again stays as it is
            reach = max(0.7 * calls, 2)
            continue
        reach *= 1.2 if anywhere else 1
        kinds.append("writing" if writing else "anywhere")
    raise AssertionError("never through")


if __name__ == "__main__":
    # [command, folder, number of kills, arguments] per job
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([job(*each) for each in jobs]))
