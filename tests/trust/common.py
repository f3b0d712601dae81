"What the sections share: how much is tried, what was found, processes of their own."

import os
import re
import subprocess
import sys
from dataclasses import dataclass

from helpers import ENVIRONMENT, ROOT

from lgermt.training.methods import METHODS

TESTS = ROOT / "tests"
LOSSES = sorted(path.stem for path in ROOT.glob("lgermt/losses/[!_]*.py"))
MUTATED = ("training.schedules", "evaluation.metrics", *(f"losses.{name}" for name in LOSSES))


@dataclass(frozen=True)
class Size:
    "How much is tried."

    shapes: int = 1000
    files: int = 2000  # damaged, per format
    kills: int = 100
    methods: tuple = tuple(METHODS)  # that are killed
    examples: int = 300  # per property
    mistakes: tuple = ()  # names of test files; none: all
    steps: str = "one_step"  # tests of two processes
    mutants: int = 0  # faults tried per module, drawn at random; 0: all
    mutated: tuple = MUTATED  # modules
    notebooks: tuple = ()  # names of those that run; none: all
    tests: tuple = ("tests",)  # whose coverage counts; notebooks too
    pins: str = "requirements-hashed.txt"  # what is asked for known vulnerabilities


# the output of a process as text, whatever the locale of this one
CAPTURED = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
QUICK = Size(
    shapes=20,
    files=40,
    kills=4,
    methods=("lg-er-mt",),
    examples=5,
    mistakes=("test_systems.py",),
    steps="one_step and lg-er-mt",
    mutants=6,
    mutated=("training.schedules",),
    notebooks=("03_schedules",),
    tests=("tests/training/test_weights.py",),
)


@dataclass(frozen=True)
class Figures:
    "What a section found."

    tried: str
    found: str
    passed: bool | None  # None: it could not be found out
    numbers: dict


def process(command, **variables):
    "Runs a command, which finds the package and the tests; as `subprocess.run` returns it."
    own = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(map(str, (ROOT, TESTS, own)))
    environment = {**ENVIRONMENT, "PYTHONPATH": path, "PLOTLY_RENDERER": "plotly_mimetype"}
    command, environment = list(map(str, command)), environment | variables
    return subprocess.run(command, cwd=ROOT, env=environment, **CAPTURED)


def last_line(done):
    "What a process said last, for people: its errors, or else its output."
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"ended with {done.returncode}"


def module_run(name, *arguments):
    "Runs `python -m name` to its end."
    return process([sys.executable, "-m", name, *arguments])


def worker(script, *arguments, **environment):
    "Runs a script of the tests to its end; what it printed."
    command = [sys.executable, TESTS / script, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT | environment, **CAPTURED, timeout=7200)


def pytest_run(*arguments, **environment):
    "Runs tests; exit code, output, and how many passed, failed and were skipped."
    path = os.pathsep.join(map(str, (ROOT, TESTS)))
    environment = ENVIRONMENT | {"PYTHONPATH": path} | environment
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, **CAPTURED)
    counts = {}
    for word in ("passed", "failed", "error", "skipped"):
        numbers = re.findall(rf"(\d+) {word}", done.stdout)
        counts[word] = int(numbers[-1]) if numbers else 0
    return done, counts
