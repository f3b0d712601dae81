"""A pytest plugin of `make trust`: counts the calls of commands that have to end with code 2."""

import json
import os
from pathlib import Path

import helpers

COUNTS = {"tried": 0, "traceback": 0, "commands": 0}
COMMANDS = set()
plain_run = helpers.run


def counted_run(module, *arguments, code=0):
    "`helpers.run` that counts mistakes."
    said = plain_run(module, *arguments, code=code)
    if code == 2:
        COMMANDS.add(module)
        COUNTS["tried"] += 1
        COUNTS["traceback"] += "Traceback" in said.err.getvalue()
    return said


helpers.run = counted_run  # before a test imports it


def pytest_sessionfinish():
    "Writes the counts."
    counts = {**COUNTS, "commands": len(COMMANDS)}
    Path(os.environ["LGERMT_MISTAKES"]).write_text(json.dumps(counts), encoding="utf-8")
