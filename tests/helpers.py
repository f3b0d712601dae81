"""What several tests use: a tiny training, commands, comparisons bit for bit."""

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path

import pytest
import torch

from lgermt.training.config import TrainConfig, resolve_config

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = [
    *("--labeled", "2", "--patch", "32", "32", "16", "--base-channels", "2"),
    *("--stride", "32", "32", "16", "--log-every", "2", "--device", "cpu"),
]


def tiny_config(out, method, **settings):
    "Settings of a training that takes seconds, complete."
    tiny = dict(patch=(32, 32, 16), base_channels=2, device="cpu", precision="fp32")
    return resolve_config(TrainConfig(data="phantom", out=out, method=method, **tiny | settings))


needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no make and no SIGTERM")


def command(module, *arguments):
    "The arguments of a process that runs `python -m lgermt.<module>`."
    return [sys.executable, "-m", f"lgermt.{module}", *map(str, arguments)]


class Said:
    "What a command printed."

    def __init__(self):
        self.out, self.err = io.StringIO(), io.StringIO()

    @property
    def errors(self):
        return self.err.getvalue().strip().splitlines()


def run(module, *arguments, code=0):
    "Runs a command's `main` to its end and checks the exit code."
    said, found = Said(), 0
    with contextlib.redirect_stdout(said.out), contextlib.redirect_stderr(said.err):
        try:
            importlib.import_module(f"lgermt.{module}").main([str(a) for a in arguments])
        except SystemExit as stop:
            found = stop.code
    assert found == code, said.out.getvalue() + said.err.getvalue()
    return said


def train(scans, out, *more, code=0):
    "A tiny training."
    return run("train", "--data", scans, "--out", out, *TINY, *more, code=code)


def weights(out):
    "Student and teacher of a run."
    state = torch.load(out / "last.pt", weights_only=True)
    return {
        f"{name}.{key}": value
        for name in ("student", "teacher")
        if name in state
        for key, value in state[name].items()
    }


def assert_same_weights(one, other):
    "Bit for bit."
    assert weights(one).keys() == weights(other).keys()
    for key, value in weights(one).items():
        assert torch.equal(value, weights(other)[key]), key


def leaves(state, path=""):
    "Path -> value, through dictionaries and lists."
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, (list, tuple)):
        items = enumerate(state)
    else:
        return {path: state}
    found = {}
    for key, value in items:
        found |= leaves(value, f"{path}/{key}")
    return found


def assert_same(one, other):
    "Bit for bit, optimisers included."
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        same = torch.equal(value, other[path]) if torch.is_tensor(value) else value == other[path]
        assert same, path
