"""Damaged files by the hundred: each is read or refused in one line, without crash or hang."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import damage
import pytest
from helpers import ENVIRONMENT

WORKER = Path(__file__).with_name("damage.py")


@pytest.mark.skipif(not damage.PEAK.exists(), reason="only Linux tells the most a process had")
def test_memory_that_is_given_back_is_noticed():
    "In a process of its own: another test's freed memory would be used again."
    code = (
        "import damage, numpy as np\n"
        "print(damage.with_memory(lambda: np.ones(8_000_000).sum())[1])\n"  # 64 MB
        "print(damage.with_memory(lambda: None)[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=WORKER.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    large, nothing = map(float, done.stdout.split())
    assert 40 < large < 90 and nothing < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, first, last",
    [
        ("h5", 0, 1000),
        ("h5", 1000, 2000),
        ("nrrd", 0, 200),
        ("nii", 0, 300),
        ("nii.gz", 0, 200),
        ("checkpoint", 0, 200),
        ("list", 0, 300),
    ],
)
def test_damaged_files_are_read_or_refused(kind, first, last, tmp_path):
    done = subprocess.run(
        [sys.executable, WORKER, kind, str(first), str(last), tmp_path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    current = (tmp_path / "in_hand").read_text()
    failure = "hung" if done.returncode == -signal.SIGPROF else "crashed"
    assert done.returncode == 0, (
        f"{current}: {failure} with {done.returncode}\n{done.stderr[-2000:]}"
    )
    outcomes = json.loads(done.stdout)
    assert outcomes.keys() <= {"read", "refused"} and outcomes["refused"] > 0, outcomes
    assert sum(outcomes.values()) == last - first
    if kind != "nii.gz":  # whose checksum finds all damage
        assert outcomes["read"] > 0  # some damage is harmless, e.g. to a voxel
    assert not done.stderr, "a library prints past Python: " + done.stderr[:500]
