"""Two processes on the CPU: the same step, the same training, an end when one of them dies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, TINY, train, weights
from two_ranks import one_step

from lgermt.training.methods import METHODS

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("two_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Group norm: instance norm over a bottleneck of 4 voxels amplifies rounding.
SHORT = [
    *("--iterations", 5, "--checkpoint-every", 2),
    *("--precision", "fp32", "--norm", "group", "--validate-every", 4),
]
FEW = [*TINY, *SHORT]


def started(arguments, code, **environment):
    "Runs a command to its end and checks the exit code."
    done = subprocess.run(
        list(map(str, arguments)),
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def assert_close(actual, expected, atol, rtol, name):
    "`torch.testing.assert_close` that says which tensor differs."
    torch.testing.assert_close(
        actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}"
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "One step of every method on two processes."
    file = tmp_path_factory.mktemp("ranks") / "steps.pt"
    started([*TORCHRUN, WORKER, "steps", file], 0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("method", METHODS)
def test_one_step_on_two_processes_is_one_step_on_one(shared, method):
    alone = one_step(method)
    assert alone.keys() == shared[method].keys()
    gradients = [key for key in alone if key.startswith("gradient")]
    assert gradients
    for key, value in alone.items():
        # A gradient is a float32 sum over up to 65,536 voxels. Its rounding depends on how the
        # sum is divided and on the processor.
        assert_close(shared[method][key], value, 1e-4 if key in gradients else 1e-5, 1e-5, key)


@pytest.fixture(scope="module")
def uninterrupted(scans, tmp_path_factory):
    "Five iterations of one process."
    out = tmp_path_factory.mktemp("ranks") / "uninterrupted"
    train(scans, out, *SHORT)
    return out


def assert_close_runs(one, other):
    "Weights and scores of two runs, and nothing missing."
    assert weights(one).keys() == weights(other).keys()
    for key, value in weights(one).items():
        assert_close(weights(other)[key], value, 1e-4, 1e-4, key)
    actual, expected = (json.loads((out / "metrics.json").read_text()) for out in (other, one))
    assert [case["id"] for case in actual["cases"]] == [case["id"] for case in expected["cases"]]
    assert actual["mean"]["dice"] == pytest.approx(expected["mean"]["dice"], abs=0.01)
    logs = []
    for out in (one, other):
        lines = (out / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    assert [entry["iteration"] for entry in logs[1]] == [2, 4, 5]
    for before, now in zip(*logs):  # looks after the fourth and the last iteration
        assert ("validation_dice" in now) == (now["iteration"] != 2)
        assert now.get("validation_dice", 0) == pytest.approx(
            before.get("validation_dice", 0), abs=0.01
        )


def test_stopped_on_two_processes_and_resumed_by_one(scans, uninterrupted, tmp_path):
    out = tmp_path / "two"
    done = started([*TORCHRUN, WORKER, "SIGINT", "--data", scans, "--out", out, *FEW], 1)
    assert done.stderr.count("stopped after iteration 3 of 5") == 1 and "--resume" in done.stderr
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] == 3
    assert json.loads((out / "config.json").read_text())["processes"] == 2
    train(scans, out, *SHORT, "--resume")
    assert_close_runs(uninterrupted, out)


def test_stopped_on_one_process_and_resumed_by_two(scans, uninterrupted, tmp_path):
    out = tmp_path / "one"
    started([sys.executable, WORKER, "SIGTERM", "--data", scans, "--out", out, *FEW], 130)
    done = started(
        [*TORCHRUN, "-m", "lgermt.train", "--data", scans, "--out", out, *FEW, "--resume"], 0
    )
    assert done.stdout.count("the run is in") == 1
    assert_close_runs(uninterrupted, out)


def test_a_process_that_dies_ends_the_run(scans, tmp_path):
    out = tmp_path / "dead"
    timeout = 10 * 3600  # the closed connection tells the other process, not the silence
    done = started(
        [*TORCHRUN, WORKER, "SIGKILL", "--data", scans, "--out", out, *FEW],
        1,
        LGERMT_TIMEOUT=str(timeout),
    )
    assert "gone or silent" in done.stderr and "SIGKILL" in done.stderr
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] == 2
    assert not (out / "metrics.json").exists()


def test_a_process_that_is_stopped_ends_the_run(scans, tmp_path):
    out = tmp_path / "frozen"
    timeout = 20  # seconds: enough for a process on a busy machine
    done = started(
        [*TORCHRUN, WORKER, "SIGSTOP", "--data", scans, "--out", out, *FEW],
        1,
        LGERMT_TIMEOUT=str(timeout),
    )
    assert done.stderr.count("gone or silent") == 1
    assert "SIGKILL" in done.stderr  # torchrun's table: how the stopped rank was ended
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] == 2
    assert not (out / "metrics.json").exists()


def test_a_users_mistake_is_one_line_of_ours(scans, tmp_path):
    arguments = ["--data", scans, "--out", tmp_path / "out", *FEW, "--labeled", 5]
    done = started([*TORCHRUN, "-m", "lgermt.train", *arguments], 1)  # torchrun's own exit code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lgermt.train: ")]
    assert "--labeled 5" in line and "exitcode  : 2" in done.stderr
    assert not (tmp_path / "out").exists()
