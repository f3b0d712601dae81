"""`kill -9`, at random places and in the middle of writing, until the command is through."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, TINY, assert_same

from lgermt.training.methods import METHODS

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("kills.py")
KILLS = 5
FEW = ["--iterations", "8", "--checkpoint-every", "1"]


def killed(folder, *jobs):
    "Runs commands with kills; where each kill of each job came: writing or anywhere."
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    done = subprocess.run(
        [sys.executable, WORKER, folder / "jobs.json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def learned(out):
    "All that a run has learned: networks, optimisers, iteration."
    state = torch.load(out / "last.pt", weights_only=True)
    return {name: part for name, part in state.items() if name != "config"}


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("methods", [list(METHODS)[i::4] for i in range(4)], ids=" ".join)
def test_every_method_is_killed_five_times_and_ends_with_the_same_bits(scans, tmp_path, methods):
    jobs = []
    for method in methods:
        for kind, kills in (("whole", 0), ("killed", KILLS)):
            out = tmp_path / f"{method}_{kind}"
            arguments = ["--data", scans, "--method", method, *TINY, *FEW, "--out", out]
            jobs.append(["train", out, kills, [str(argument) for argument in arguments]])
    log = killed(tmp_path, *jobs)
    for method, kinds in zip(methods, log[1::2]):
        assert kinds == ["anywhere", "writing", "anywhere", "writing", "anywhere"]
        one, other = (tmp_path / f"{method}_{kind}" for kind in ("whole", "killed"))
        assert_same(learned(one), learned(other))
        assert not list(other.glob(".*")), "a killed writer's temporary file stays behind"
        scores = [read_json(out / "metrics.json")["mean"] for out in (one, other)]
        assert scores[0] == scores[1]  # of equal weights
        lines = (other / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [2, 4, 6, 8]


def test_compare_and_evaluate_are_killed_and_end_the_same(scans, tmp_path):
    settings = ["--data", scans, "--methods", "vnet", "lg-er-mt", "--seeds", "0", *TINY, *FEW]
    whole, other = tmp_path / "whole", tmp_path / "killed"
    checkpoint = whole / "runs" / "vnet_2_0" / "last.pt"
    jobs = []
    for folder, kills in ((whole, 0), (other, 8)):
        compare = [*settings, "--out", folder / "results", "--runs", folder / "runs"]
        evaluate = ["--checkpoint", checkpoint, "--data", scans, "--out", folder / "scores.json"]
        jobs.append(["compare", folder, kills, [str(argument) for argument in compare]])
        jobs.append(["evaluate", folder, kills, [str(argument) for argument in evaluate]])
    log = killed(tmp_path, *jobs)
    assert len(log[2]) == 8 and len(log[3]) == 8
    for name in ("vnet_2_0", "lg-er-mt_2_0"):
        results = [read_json(folder / "results" / f"{name}.json") for folder in (whole, other)]
        assert results[0]["cases"] == results[1]["cases"]
        assert results[0]["settings"] == results[1]["settings"]
        assert_same(learned(whole / "runs" / name), learned(other / "runs" / name))
    for name in ("results/table.md", "scores.json", "scores.csv"):
        assert (whole / name).read_bytes() == (other / name).read_bytes()
