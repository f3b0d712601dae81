"""`kill -9`, at random moments and in the middle of writing, until the command is through."""

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
FEW = ["--iterations", "8", "--checkpoint-every", "1", "--block-size", "8"]


def killed(folder, *jobs):
    "Runs commands with kills; [seconds, where] of each kill, by job."
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


def learnt(out):
    "All that a run has learnt: networks, optimisers, iteration."
    return {
        name: part
        for name, part in torch.load(out / "last.pt", weights_only=True).items()
        if name != "config"
    }


@pytest.mark.parametrize("methods", [list(METHODS)[i::2] for i in range(2)], ids=" ".join)
def test_every_method_is_killed_five_times_and_ends_with_the_same_bits(scans, tmp_path, methods):
    arguments = {method: ["--data", scans, "--method", method, *TINY, *FEW] for method in methods}
    jobs = [
        [
            "train",
            tmp_path / f"{method}_{kind}",
            kills,
            [*map(str, arguments[method]), "--out", str(tmp_path / f"{method}_{kind}")],
        ]
        for method in methods
        for kind, kills in (("whole", 0), ("killed", KILLS))
    ]
    log = killed(tmp_path, *jobs)
    for method, kills in zip(methods, log[1::2]):
        assert len(kills) == KILLS
        one, other = (tmp_path / f"{method}_{kind}" for kind in ("whole", "killed"))
        assert_same(learnt(one), learnt(other))
        assert not list(other.glob(".*")), "a killed writer's temporary file stays behind"
        assert (
            json.loads((one / "metrics.json").read_text())["mean"]
            == json.loads((other / "metrics.json").read_text())["mean"]
        )
        assert [
            json.loads(line)["iteration"] for line in (other / "log.jsonl").read_text().splitlines()
        ] == [2, 4, 6, 8]
    assert {where for kills in log for _, where in kills} == {"writing", "anywhere"}


def test_compare_and_evaluate_are_killed_and_end_the_same(scans, tmp_path):
    settings = ["--data", scans, "--methods", "vnet", "lg-er-mt", "--seeds", "0", *TINY, *FEW]
    jobs = []
    for kind, kills in (("whole", 0), ("killed", 8)):
        folder = tmp_path / kind
        jobs.append(
            [
                "compare",
                folder,
                kills,
                [
                    *map(str, settings),
                    "--out",
                    str(folder / "results"),
                    "--runs",
                    str(folder / "runs"),
                ],
            ]
        )
        jobs.append(
            [
                "evaluate",
                folder,
                kills,
                [
                    "--checkpoint",
                    str(tmp_path / "whole" / "runs" / "vnet_2_0" / "last.pt"),
                    "--data",
                    str(scans),
                    "--out",
                    str(folder / "scores.json"),
                ],
            ]
        )
    log = killed(tmp_path, *jobs)
    assert len(log[2]) == 8 and len(log[3]) == 8
    for name in ("vnet_2_0", "lg-er-mt_2_0"):
        one, other = (
            json.loads((tmp_path / kind / "results" / f"{name}.json").read_text())
            for kind in ("whole", "killed")
        )
        assert one["cases"] == other["cases"] and one["settings"] == other["settings"]
        assert_same(*(learnt(tmp_path / kind / "runs" / name) for kind in ("whole", "killed")))
    one, other = (tmp_path / kind for kind in ("whole", "killed"))
    for name in ("results/table.md", "scores.json", "scores.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
