"""What `test_kills.py` starts: runs a command again and again in processes of its own, and kills them, until it is through."""

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
import torch._dynamo  # noqa: F401  the processes below are forks of this one: what is imported here, is not imported each time

import lgermt.viz.report  # noqa: F401


def whole(folder):
    "Everything that has its final name can be read."
    for path in folder.rglob("[!.]*"):
        if path.name == "last.pt":
            assert torch.load(path, weights_only=True)["iteration"] > 0
        if path.suffix == ".json":
            json.loads(path.read_text())


def die_writing(count):
    "Lets this process kill itself in the middle of its `count`-th file: written, perhaps half, not yet renamed."
    sync, calls = os.fsync, iter(range(1, 10**6))

    def fsync(descriptor):
        if next(calls) == count:
            if count % 2 and Path("/proc/self/fd").exists():
                os.truncate(f"/proc/self/fd/{descriptor}", os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = fsync


def start(module, arguments, count):
    "The command in a fork; in one that dies writing where `count` is not 0."
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


def job(name, folder, wanted, arguments):
    "Kills the command `wanted` times, at random moments and in the middle of writing, then lets it end; what lies in `folder` is whole each time."
    module, folder, draw, log = (
        importlib.import_module(f"lgermt.{name}"),
        Path(folder),
        random.Random(Path(folder).name),
        [],
    )
    longest = 0.4
    for attempt in range(10 * wanted + 1):
        resume = ["--resume"] if name == "train" and (folder / "config.json").exists() else []
        killing = len(log) < wanted
        count = draw.randrange(1, 7) if killing and draw.random() < 0.4 else 0
        began = time.monotonic()
        number = start(module, [*arguments, *resume], count)
        if killing and not count:
            time.sleep(draw.uniform(0.02, longest))
            longest *= 1.2
            os.kill(number, signal.SIGKILL)  # a zombie if it ended already
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        assert code in (0, -signal.SIGKILL), f"attempt {attempt} ended with {code}"
        whole(folder)
        if code == 0 and not killing:
            return log
        if (
            code == 0
        ):  # through too early; once more, for a run that is finished has to stay as it is
            longest = 0.7 * (time.monotonic() - began)
            continue
        log.append([round(time.monotonic() - began, 2), "writing" if count else "anywhere"])
    raise AssertionError("never through")


if __name__ == "__main__":
    jobs = json.loads(
        Path(sys.argv[1]).read_text()
    )  # [command, folder, number of kills, arguments]
    print(json.dumps([job(*each) for each in jobs]))
