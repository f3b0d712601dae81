"""`compare --parallel`: the files and bits of one run after the other, a stop, a run that fails."""

import json
import signal
import subprocess
import time

import pytest
from helpers import ENVIRONMENT, TINY, command, needs_posix, weights

METHODS = ("vnet", "lg-er-mt")


def arguments(scans, out, *more):
    "A comparison of two tiny runs."
    shared = "--data", scans, "--out", out / "results", "--runs", out / "runs", *TINY
    return command("compare", *shared, "--methods", *METHODS, "--seeds", 3, *more)


def compare(scans, out, *more, code=0):
    "Runs a comparison in a process of its own."
    options = dict(env=ENVIRONMENT, capture_output=True, text=True)
    done = subprocess.run(arguments(scans, out, *more), **options)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def kept(out):
    "All that two comparisons must have in common."
    found = {}
    for path in sorted((out / "results").glob("*_*_*.json")):
        content = json.loads(path.read_text())
        found[path.name] = {name: content[name] for name in ("cases", "mean", "std", "settings")}
        state = weights(out / "runs" / path.stem)
        found[path.name]["weights"] = {name: value.tolist() for name, value in state.items()}
    return found


def names(out):
    "Files of a comparison; those of TensorBoard hold the time in their names."
    paths = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(path for path in paths if "tfevents" not in path)


def test_two_runs_at_once_are_those_of_one_after_the_other(scans, tmp_path):
    compare(scans, tmp_path / "in_turn", "--iterations", 6)
    done = compare(scans, tmp_path / "at_once", "--iterations", 6, "--parallel", 2)
    assert "2 runs at a time, threads of each: 1" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[:5] for line in lines] == ["[1/2]", "[2/2]"]
    assert sum("seed 3: Dice" in line for line in lines) == 2
    assert names(tmp_path / "at_once") == names(tmp_path / "in_turn")
    found = kept(tmp_path / "at_once")
    assert found == kept(tmp_path / "in_turn") and len(found) == 2
    again = compare(scans, tmp_path / "at_once", "--iterations", 6, "--parallel", 2)
    assert again.stdout.count("was done before") == 2


def test_a_run_that_fails_is_named_and_the_others_go_on(scans, tmp_path):
    "A folder of another's files stops the command as it does without --parallel."
    options = "--iterations", 6, "--parallel", 2, "--learning-rate", 1e30
    done = compare(scans, tmp_path, *options, code=1)
    assert "2 of the runs failed" in done.stderr and "nothing is finished yet" in done.stdout
    failed = [line for line in done.stdout.splitlines() if "failed: iteration" in line]
    assert {line.split("] ")[1].split(",")[0] for line in failed} == {"V-Net", "LG-ER-MT"}
    assert not list((tmp_path / "results").glob("*.json")) and not done.stderr.count("Traceback")
    taken = tmp_path / "taken" / "runs" / "vnet_2_3"
    taken.mkdir(parents=True)
    (taken / "metrics.json").write_text("{}")
    done = compare(scans, tmp_path / "taken", "--iterations", 6, "--parallel", 2, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lgermt.compare:")]
    assert "vnet_2_3" in line and "metrics.json" in line and "Traceback" not in done.stderr


def test_less_than_one_run_at_a_time_is_refused(scans, tmp_path):
    done = compare(scans, tmp_path, "--parallel", 0, code=2)
    assert "--parallel 0: give 1 or more" in done.stderr


@needs_posix
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_all_runs_and_the_command_goes_on(scans, tmp_path, sent):
    options = "--iterations", 400  # enough that the stop comes before the end
    process = subprocess.Popen(
        arguments(scans, tmp_path / "stopped", *options, "--parallel", 2),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    logs = [tmp_path / "stopped" / "runs" / f"{name}_2_3" / "log.jsonl" for name in METHODS]
    while not all(path.exists() and path.stat().st_size for path in logs):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    printed, complaints = process.communicate()
    assert process.returncode == 130 and "stopped; the same command goes on" in printed
    assert "Traceback" not in complaints
    assert all((path.parent / "last.pt").exists() for path in logs)
    assert not (tmp_path / "stopped" / "results" / "lg-er-mt_2_3.json").exists()
    compare(scans, tmp_path / "stopped", *options, "--parallel", 2)
    compare(scans, tmp_path / "whole", *options)
    assert kept(tmp_path / "stopped") == kept(tmp_path / "whole")
