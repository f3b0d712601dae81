"""A run and its folder: which data it is of, one process at a time, files of others."""

import json
import shlex
import shutil
import signal
import subprocess
import time

import h5py
import pytest
import torch
from helpers import ENVIRONMENT, ROOT, TINY, command, needs_posix, run, train

from lgermt.train import run as run_training
from lgermt.training.config import TrainConfig

STEPS = ["--iterations", 4, "--checkpoint-every", 2]


@pytest.fixture
def copy(scans, tmp_path):
    "A copy of the scans that a test may change."
    return shutil.copytree(scans, tmp_path / "copy")


@pytest.fixture
def stopped(scans, tmp_path):
    "A run that holds a checkpoint of its last iteration, to be resumed."
    out = tmp_path / "run"
    train(scans, out, *STEPS)
    return out


def set_voxel(folder, case, name):
    with h5py.File(folder / case / "mri_norm2.h5", "r+") as file:
        file[name][0, 0, 0] = 1 - file[name][0, 0, 0]


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_says_which_scans_it_was_trained_with(scans, finished, tmp_path):
    state = torch.load(finished / "last.pt", weights_only=True)
    labeled, unlabeled = ["phantom_000", "phantom_001"], ["phantom_002", "phantom_003"]
    assert state["scans"] == {"labeled": labeled, "unlabeled": unlabeled}
    config = json.loads((finished / "config.json").read_text())
    assert config["scans"] == state["scans"]
    assert config["data_fingerprint"] == state["data_fingerprint"]
    train(scans, tmp_path / "vnet", *STEPS, "--method", "vnet")
    state = torch.load(tmp_path / "vnet" / "last.pt", weights_only=True)
    assert state["scans"] == {"labeled": labeled, "unlabeled": []}


def test_a_moved_folder_goes_on(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("copy", "run", *STEPS)
    copy.rename(tmp_path / "moved")
    for spelling in ("moved/", f"../{tmp_path.name}/moved", tmp_path / "moved"):
        train(spelling, "run", *STEPS, "--resume")
        assert json.loads((tmp_path / "run" / "config.json").read_text())["data"] == str(spelling)
    assert (
        "--seed 1 (was 0)"
        in train("moved", "run", *STEPS, "--resume", "--seed", 1, code=2).errors[0]
    )


@pytest.mark.parametrize(
    "case, name",
    [("phantom_000", "label"), ("phantom_003", "image"), ("phantom_005", "label")],
)
def test_changed_data_are_refused(copy, tmp_path, case, name):
    out = tmp_path / "run"
    train(copy, out, *STEPS)
    before = snapshot(out)
    set_voxel(copy, case, name)
    (line,) = train(copy, out, *STEPS, "--resume", code=2).errors
    assert f"{name} of {case} changed" in line and "last.pt" in line
    assert snapshot(out) == before


def test_a_label_that_is_not_used_may_change(copy, tmp_path):
    out = tmp_path / "run"
    train(copy, out, *STEPS)
    set_voxel(copy, "phantom_003", "label")
    train(copy, out, *STEPS, "--resume")


def test_a_changed_list_is_refused(copy, tmp_path):
    out = tmp_path / "run"
    train(copy, out, *STEPS)
    ids = (copy / "train.list").read_text().split()
    (copy / "train.list").write_text("\n".join([*ids[:2], ids[3], ids[2]]))
    assert "training list changed" in train(copy, out, *STEPS, "--resume", code=2).errors[0]


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_without_fingerprint_goes_on_with_a_warning(stopped, scans):
    state = torch.load(stopped / "last.pt", weights_only=True)
    del state["scans"], state["data_fingerprint"]
    torch.save(state, stopped / "last.pt")
    with pytest.warns(UserWarning, match="does not say which data"):
        train(scans, stopped, *STEPS, "--resume")


def test_a_scan_under_two_names_is_not_trained_with_and_scored(copy, tmp_path):
    shutil.copy(copy / "phantom_003" / "mri_norm2.h5", copy / "phantom_005")
    for method in ("mt", "vnet"):  # which does not train with phantom_003
        code = 2 if method == "mt" else 0
        said = train(copy, tmp_path / method, *STEPS, "--method", method, code=code)
        assert ("phantom_005" in said.errors[0] and "phantom_003" in said.errors[0]) == (code == 2)
    said = compare(copy, tmp_path, "--methods", "mt", code=2)
    assert "phantom_003, which is trained with" in said.errors[-1]
    assert not (tmp_path / "results" / "mt_2_0.json").exists()


def compare(data, out, *more, code=0):
    arguments = ["--data", data, "--out", out / "results", "--runs", out / "runs", "--seeds", 0]
    return run("compare", *arguments, *TINY, *STEPS, *more, code=code)


def test_compare_does_not_take_results_of_other_data(scans, copy, tmp_path):
    compare(scans, tmp_path, "--methods", "vnet")
    result = tmp_path / "results" / "vnet_2_0.json"
    before = result.read_bytes()
    assert "was done before" in compare(copy, tmp_path, "--methods", "vnet").out.getvalue()
    set_voxel(copy, "phantom_005", "label")
    for methods in (["vnet"], ["vnet", "mt"], ["mt"]):
        (line,) = compare(copy, tmp_path, "--methods", *methods, code=2).errors
        assert "vnet_2_0.json" in line and "label of phantom_005" in line
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["vnet_2_0"]
    assert result.read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_compare_takes_results_without_fingerprint_with_a_warning(scans, tmp_path):
    compare(scans, tmp_path, "--methods", "vnet")
    path = tmp_path / "results" / "vnet_2_0.json"
    result = json.loads(path.read_text())
    del result["data_fingerprint"]
    path.write_text(json.dumps(result))
    with pytest.warns(UserWarning, match="vnet_2_0.json.*does not say which data"):
        compare(scans, tmp_path, "--methods", "vnet")


def start(scans, out, *more):
    "A long training as a process; returns when it has taken its first steps."
    arguments = ["--data", scans, "--out", out, *TINY, "--iterations", 100000, *more]
    process = subprocess.Popen(
        command("train", *arguments), env=ENVIRONMENT, stderr=subprocess.PIPE
    )
    log = out / "log.jsonl"
    size = log.stat().st_size if log.exists() else 0
    while process.poll() is None and not (log.exists() and log.stat().st_size > size):
        time.sleep(0.05)
    return process


@needs_posix
def test_a_folder_holds_one_run_at_a_time(scans, tmp_path):
    out = tmp_path / "run"
    first = start(scans, out)
    for more in (["--seed", 1], ["--overwrite"], ["--resume"]):
        (line,) = train(scans, out, *more, code=2).errors
        assert "another process is at work there" in line
    first.kill()  # its lock file stays, its lock does not
    first.communicate()
    assert (out / ".lock").exists()
    second = start(scans, out, "--overwrite")
    second.send_signal(signal.SIGTERM)
    second.communicate()
    assert second.returncode == 130 and not (out / ".lock").exists()
    third = start(scans, out, "--resume")
    (line,) = train(scans, out, "--iterations", 100000, "--resume", code=2).errors
    assert "another process is at work there" in line
    third.send_signal(signal.SIGTERM)
    third.communicate()
    assert third.returncode == 130


@pytest.mark.parametrize(
    "name", ["metrics.json", "report.html", "log.jsonl", "events.out.tfevents.1"]
)
def test_files_of_others_stay(scans, tmp_path, name):
    out = tmp_path / "results"
    out.mkdir()
    (out / name).write_text("mine")
    (out / "notes.txt").write_text("mine")
    (line,) = train(scans, out, *STEPS, code=2).errors
    assert name in line and "notes.txt" not in line and "--overwrite" in line
    assert snapshot(out) == {name: b"mine", "notes.txt": b"mine"}
    train(scans, out, *STEPS, "--overwrite")
    assert (out / "notes.txt").read_text() == "mine" and (out / "last.pt").exists()


def make(*words):
    "A call of `make train` that takes the environment for installed."
    wanted = ["make", "--assume-old=.venv/.installed", "train", *words]
    return subprocess.run(wanted, cwd=ROOT, capture_output=True, text=True)


@needs_posix
def test_make_train_does_not_replace_a_run(finished):
    before = snapshot(finished)
    said = make(f"OUT={finished}")
    assert said.returncode == 2 and "OVERWRITE=1" in said.stderr
    assert snapshot(finished) == before
    assert "--overwrite" not in make("--dry-run", f"OUT={finished}").stdout.split()
    assert "--overwrite" in make("--dry-run", f"OUT={finished}", "OVERWRITE=1").stdout.split()
    for words in (["OVERWRITE=1"], ["ARGS=--resume"], ["OUT=runs/not-there"]):
        recipe = make("--dry-run", f"OUT={finished}", *words).stdout
        guard = recipe.partition(".venv/bin/python")[0]
        assert subprocess.run(guard, shell=True, cwd=ROOT).returncode == 0


def test_a_run_says_what_it_does_how_long_and_what_comes_next(scans, tmp_path):
    said = train(scans, tmp_path / "a run", "--iterations", 8).out.getvalue().splitlines()
    names = ["data", "method", "weights", "network", "device", "time"]
    assert [line.split()[0] for line in said[:6]] == names
    assert f"{scans}: 2 annotated and 2 unannotated scans, 2 to test" in said[0]
    assert [line.split()[0] for line in said[-3:]] == ["look", "score", "segment"]
    words = shlex.split(said[-2])[1:]
    assert words[:3] == ["python", "-m", "lgermt.evaluate"]
    run("evaluate", *words[3:])
    assert (tmp_path / "a run" / "test.json").exists()


def test_a_run_of_more_than_an_hour_names_one_of_twenty_minutes(scans, tmp_path):
    arguments = ["--data", scans, "--out", tmp_path / "run", *TINY, "--iterations", 100_000_000]
    process = subprocess.Popen(
        command("train", *arguments),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    line = next(line for line in process.stdout if line.startswith("time"))
    process.kill()
    process.communicate()
    assert "hours" in line and "on this CPU about twenty minutes with --iterations " in line


def test_a_notebook_is_spared_the_words(scans, tmp_path, capsys):
    data, out = str(scans), tmp_path / "run"
    settings = {"labeled": 2, "iterations": 8, "patch": (32, 32, 16), "base_channels": 2}
    run_training(TrainConfig(data, out, "vnet", device="cpu", **settings), progress=False)
    said = capsys.readouterr()
    assert not said.out and not said.err
