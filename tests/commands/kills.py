"""`test_kills.py` starts this: a command is started and killed again and again until it is done."""

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  the processes below are forks: they need not import it again

import lgermt.viz.report  # noqa: F401  for the same reason


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


def start(module, arguments, count):
    "Starts the command in a fork, which dies while writing where `count` is not 0."
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if count:
                die_writing(count)
            module.main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def job(name, folder, kills, arguments):
    "Kills a command `kills` times, then lets it end; the files are whole each time. Kinds of kill."
    module = importlib.import_module(f"lgermt.{name}")
    folder = Path(folder)
    draw = random.Random(folder.name)
    kinds = []
    longest = 0.4  # seconds until a kill at a random moment, at most
    for attempt in range(10 * kills + 1):
        resume = ["--resume"] if name == "train" and (folder / "config.json").exists() else []
        killing = len(kinds) < kills
        writing = killing and len(kinds) % 2 == 1  # every other kill comes while a file is written
        count = draw.randrange(1, 7) if writing else 0
        began = time.monotonic()
        number = start(module, [*arguments, *resume], count)
        if killing and not writing:
            time.sleep(draw.uniform(0.02, longest))
            longest *= 1.2
            os.kill(number, signal.SIGKILL)  # a zombie if it ended already
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        assert code in (0, -signal.SIGKILL), f"attempt {attempt} ended with {code}"
        check_files(folder)
        if code == 0 and not killing:
            return kinds
        if code == 0:  # it ended before the kill; a finished run that starts again stays as it is
            longest = 0.7 * (time.monotonic() - began)
            continue
        kinds.append("writing" if writing else "anywhere")
    raise AssertionError("never through")


if __name__ == "__main__":
    # [command, folder, number of kills, arguments] per job
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([job(*each) for each in jobs]))
