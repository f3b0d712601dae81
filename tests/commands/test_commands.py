"""The commands: train, stop and resume as processes; evaluate, predict and mistakes by `main`."""

import csv
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import TINY, assert_same_weights, command, leaves, needs_posix, run, train, weights


def test_train_writes_what_the_design_promises(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    assert {"student", "teacher", "optimizer", "iteration", "random", "config"} <= state.keys()
    assert state["iteration"] == 12
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["method"] == "lg-er-mt" and metrics["split"] == "test"
    dices = [case["dice"] for case in metrics["cases"]]
    assert len(dices) == 2 and metrics["mean"]["dice"] == pytest.approx(np.mean(dices))
    assert metrics["empty_predictions"] in range(3)
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in log] == [2, 4, 6, 8, 10, 12]
    terms = {"loss", "supervised", "consistency", "entropy", "local", "global"}
    assert terms | {"ramp", "learning_rate"} <= log[0].keys()
    config = json.loads((finished / "config.json").read_text())
    assert config["norm"] and config["orientations"]
    assert config["versions"]["torch"] == torch.__version__
    assert list(finished.glob("events.out.tfevents.*"))
    page = (finished / "report.html").read_text()
    assert "phantom_00" in page and 'src="http' not in page


def test_same_seed_same_weights_other_seed_others(scans, finished, tmp_path):
    train(scans, tmp_path / "again", "--iterations", 12)
    assert_same_weights(finished, tmp_path / "again")
    train(scans, tmp_path / "other", "--iterations", 12, "--seed", 1)
    one, other = weights(finished), weights(tmp_path / "other")
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_writes_a_checkpoint_and_says_how_to_go_on(scans, tmp_path, number):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command("train", "--data", scans, "--out", out, *TINY, "--iterations", 100000),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "log.jsonl"
    # until the first steps are done
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130 and "--resume" in errors.splitlines()[-1], errors
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] > 0


def assert_same_cases(one, other):
    "The same scans, and the same scores as far as floats go."
    assert [case["id"] for case in one] == [case["id"] for case in other]
    for a, b in zip(one, other):
        assert leaves({**a, "id": 0}) == pytest.approx(leaves({**b, "id": 0}))


def evaluate(scans, out, *more, code=0):
    return run("evaluate", "--data", scans, "--out", out, "--device", "cpu", *more, code=code)


def read(path):
    return json.loads(path.read_text())


def test_evaluate_agrees_with_the_training_run(scans, finished, tmp_path):
    checkpoint = "--checkpoint", finished / "last.pt"
    evaluate(scans, tmp_path / "scores.json", *checkpoint)
    scores, of_training = read(tmp_path / "scores.json"), read(finished / "metrics.json")
    assert_same_cases(scores["cases"], of_training["cases"])
    assert scores["mean"] == pytest.approx(of_training["mean"])
    one = tmp_path / "one.list"
    one.write_text("phantom_000\n")
    teacher = "--split", one, "--weights", "teacher"
    evaluate(scans, tmp_path / "one.json", *checkpoint, *teacher)
    cases = read(tmp_path / "one.json")["cases"]
    assert [case["id"] for case in cases] == ["phantom_000"]


def test_evaluate_writes_a_table_and_scores_masks_like_a_network(scans, finished, tmp_path):
    from lgermt.data.io import read_h5, write_mask
    from lgermt.evaluation.scoring import segment
    from lgermt.training.checkpoint import load_model

    evaluate(scans, tmp_path / "network.json", "--checkpoint", finished / "last.pt")
    model, config = load_model(finished / "last.pt", "cpu")
    for case in ("phantom_004", "phantom_005"):
        volume = read_h5(scans / case / "mri_norm2.h5")
        mask = segment(model, volume.image, config)
        write_mask(tmp_path / "masks" / f"{case}_pred.nii.gz", mask, volume)
    evaluate(scans, tmp_path / "masks.json", "--predictions", tmp_path / "masks")
    network, masks = read(tmp_path / "network.json"), read(tmp_path / "masks.json")
    assert_same_cases(network["cases"], masks["cases"])
    assert masks["predictions"] == str(tmp_path / "masks")
    with open(tmp_path / "masks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    metrics = ["dice", "jaccard", "asd_voxel", "hd95_voxel", "asd_mm", "hd95_mm"]
    assert columns[:7] == ["id", *metrics]
    assert columns[7:9] == ["volume_ml", "volume_error_ml"]
    assert columns[9:12] == [f"surface_dice_{t}" for t in ("1_voxel", "2_voxel", "2_mm")]
    assert columns[12:16] == ["pieces", "island_voxels", "missed_pieces", "missed_voxels"]
    assert columns[16:] == [f"largest_piece_{name}" for name in metrics]
    assert [float(row["dice"]) for row in rows] == sorted(case["dice"] for case in masks["cases"])


def test_mistakes_with_masks(scans, finished, tmp_path):
    from lgermt.data.io import read_h5, write_mask

    def refused(*arguments):
        (line,) = evaluate(scans, tmp_path / "no.json", *arguments, code=2).errors
        assert not list(tmp_path.glob("no.*"))
        return line

    volume = read_h5(scans / "phantom_004" / "mri_norm2.h5")
    write_mask(tmp_path / "masks" / "phantom_004_pred.nrrd", volume.label, volume)
    both = "--predictions", tmp_path, "--checkpoint", finished / "last.pt"
    assert "--predictions" in refused() and "--checkpoint" in refused(*both)
    assert "phantom_005_pred" in refused("--predictions", tmp_path / "masks")
    with h5py.File(tmp_path / "masks" / "phantom_005_pred.h5", "w") as file:
        file["label"] = np.zeros((8, 8, 8), np.uint8)
    line = refused("--predictions", tmp_path / "masks")
    assert "phantom_005_pred.h5" in line and "(8, 8, 8)" in line


def predict(finished, out, *more, code=0):
    return run("predict", "--checkpoint", finished / "last.pt", "--out", out, *more, code=code)


def test_predict_writes_a_mask_on_the_scans_own_grid(scans, finished, tmp_path):
    import SimpleITK

    scan = scans / "phantom_004" / "mri_norm2.h5"
    said = predict(finished, tmp_path / "masks", scan)
    mask = SimpleITK.ReadImage(str(tmp_path / "masks" / "phantom_004_pred.nii.gz"))
    with h5py.File(scan) as file:
        assert mask.GetSize() == file["image"].shape
        assert mask.GetSpacing() == pytest.approx(tuple(file.attrs["spacing"]))
    assert "phantom_004" in said.out.getvalue()
    assert (tmp_path / "masks" / "predictions.csv").exists()
    again = predict(finished, tmp_path / "masks", scan)
    assert "1 scan done before (--overwrite does them again)" in again.out.getvalue()


def test_predict_options(scans, finished, tmp_path):
    import SimpleITK

    def voxels(name):
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name)))

    scan = scans / "phantom_004" / "mri_norm2.h5"
    predict(finished, tmp_path / "plain", scan)
    predict(finished, tmp_path / "one", "--largest-component", scan)
    predict(finished, tmp_path / "mean", "--tta", "--probabilities", scan)
    plain = voxels("plain/phantom_004_pred.nii.gz")
    one = voxels("one/phantom_004_pred.nii.gz")
    mean = voxels("mean/phantom_004_pred.nii.gz")
    p = voxels("mean/phantom_004_prob.nii.gz")
    assert plain.any() and (one <= plain).all() and one.any() == plain.any()
    assert p.dtype == np.float32 and p.min() >= 0 and p.max() <= 1
    sure = abs(p - 0.5) > 1e-6
    assert ((p > 0.5) == mean)[sure].all()
    again = predict(finished, tmp_path / "mean", "--probabilities", scan, code=2)
    assert "is there already, made with another --tta" in again.errors[0]


def damaged(scans, tmp_path, case, change):
    "A copy of the scans with one of them changed."
    copy = tmp_path / "copy"
    shutil.copytree(scans, copy)
    change(copy / case / "mri_norm2.h5")
    return copy


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def edit(function):
    def change(path):
        with h5py.File(path, "r+") as file:
            function(file)

    return change


def set_voxel(file):
    file["image"][1, 2, 3] = np.nan


def odd_label(file):
    file["label"][1, 2, 3] = 7


def infinite(file):
    file["image"][3, 2, 1] = -np.inf


def constant(file):
    file["image"][...] = 0.25


def replaced(name, array):
    def change(file):
        del file[name]
        file[name] = array

    return edit(change)


def drop(name):
    return edit(lambda file: file.__delitem__(name))


@pytest.mark.parametrize(
    "case, change, says",
    [
        ("phantom_000", truncate, "mri_norm2.h5"),
        ("phantom_000", lambda path: path.unlink(), "mri_norm2.h5"),
        ("phantom_000", lambda path: path.write_bytes(b""), "mri_norm2.h5"),
        ("phantom_000", drop("image"), "image"),
        ("phantom_000", drop("label"), "label"),
        ("phantom_000", edit(set_voxel), "NaN"),
        ("phantom_002", edit(infinite), "the first at (3, 2, 1)"),
        ("phantom_002", edit(constant), "0.25"),
        ("phantom_001", edit(odd_label), "label"),
        ("phantom_001", replaced("label", np.zeros((8, 8, 8), np.uint8)), "differ in shape"),
        ("phantom_003", replaced("image", np.random.rand(48, 40).astype(np.float32)), "(48, 40)"),
        (
            "phantom_003",
            replaced("image", np.random.rand(2, 48, 40, 32).astype(np.float32)),
            "differ in shape",
        ),
        ("phantom_003", replaced("image", [b"text"]), "not numbers"),
        ("phantom_004", drop("label"), "label"),
        ("phantom_005", truncate, "mri_norm2.h5"),
    ],
)
def test_a_damaged_scan_is_named(scans, tmp_path, case, change, says):
    copy = damaged(scans, tmp_path, case, change)
    (line,) = train(copy, tmp_path / "out", "--iterations", 4, code=2).errors
    assert case in line and says in line
    assert not (tmp_path / "out").exists()


def test_an_unannotated_scan_needs_no_label(scans, tmp_path):
    copy = damaged(scans, tmp_path, "phantom_003", drop("label"))
    train(copy, tmp_path / "out", "--iterations", 2)


def test_a_label_of_255_is_converted_and_said_so(scans, tmp_path):
    with h5py.File(scans / "phantom_000" / "mri_norm2.h5") as file:
        label = 255 * file["label"][...]
    copy = damaged(scans, tmp_path, "phantom_000", replaced("label", label))
    with pytest.warns(UserWarning, match="phantom_000.*label values 0 and 255 read as 0 and 1"):
        train(copy, tmp_path / "out", "--iterations", 1)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("train.list", "", "empty"),
        ("train.list", "\n \n", "empty"),
        (
            "train.list",
            "phantom_000\nphantom_001\nphantom_000\n",
            "phantom_000 is listed more than once",
        ),
        ("train.list", "phantom_000\nphantom_001\nphantom_777\n", "phantom_777"),
        (
            "train.list",
            "phantom_000\nphantom_001\nphantom_004\n",
            "phantom_004 is also in test.list",
        ),
        ("test.list", "phantom_001\n", "phantom_001 is also in test.list"),
        ("val.list", "phantom_002\n", "phantom_002 is also in val.list"),
        ("test.list", "phantom_888\n", "phantom_888"),
        ("train.list", b"\xff\xfe\x00", "cannot read the list"),
        ("train.list", None, "no train.list"),
    ],
)
def test_a_mistake_in_a_list_is_one_line(scans, tmp_path, name, content, says):
    copy = tmp_path / "copy"
    shutil.copytree(scans, copy)
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (line,) = train(copy, tmp_path / "out", "--iterations", 4, code=2).errors
    assert says in line and str(copy) in line
    assert not (tmp_path / "out").exists()


NOT_NEGATIVE = [
    *("labeled", "hold-out", "iterations", "base-channels", "batch-size", "labeled-batch-size"),
    *("seed", "learning-rate", "local.size", "local.blocks", "ema-decay", "noise", "dropout"),
    *("log-every", "validate-every", "checkpoint-every"),
]


@pytest.mark.parametrize("option", NOT_NEGATIVE)
def test_nothing_may_be_negative(scans, tmp_path, option):
    (line,) = train(scans, tmp_path / "out", f"--{option}", -1, code=2).errors
    assert f"--{option} -1" in line and "must be" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--patch", -16, 32, 16], "16 32 16"),
        (["--patch", 16384, 16384, 16384], "no memory holds"),
        (["--stride", 32, 0, 16], "--stride 32 0 16"),
        pytest.param(
            ["--device", "cuda"],
            "--device auto",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["--labeled", 5], "--labeled 5"),
        (["--labeled", 0], "--labeled 0"),
        (["--labeled", 4], "vnet"),
        (["--patch", 32, 30, 16], "32 32 16"),
        (["--patch", 32, 32], "patch"),
        (["--method", "magic"], "lg-er-mt"),
        (["--iterations", -3], "--iterations"),
        (["--hold-out", 9], "--hold-out"),
        (["--labeled-batch-size", 9], "--labeled-batch-size"),
        (["--labeled-batch-size", 4], "entropy"),
        (["--preset", "released", "--local.blocks", 2], "--local.sampling lattice"),
        (["--local.size", 32], "--local.size 32"),
        (["--noise", "nan"], "--noise nan"),
        (["--seed", 2**64], "--seed"),
        (["--norm", "layer"], "norm"),
        (["--device", "cuda:99"], "--device"),
        (["--resume"], "--resume"),
        (["--iteratons", 3], "--iterations"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(scans, tmp_path, arguments, says):
    (line,) = train(scans, tmp_path / "out", *arguments, code=2).errors
    assert says in line
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(scans, finished):
    before = (finished / "last.pt").read_bytes()
    again = train(scans, finished, "--iterations", 12, code=2)
    assert "--resume" in again.errors[0]
    other_seed = train(scans, finished, "--iterations", 12, "--seed", 9, "--resume", code=2)
    assert "--seed 9" in other_seed.errors[0]
    assert (finished / "last.pt").read_bytes() == before


def test_too_little_memory_is_one_line(scans, finished, tmp_path, monkeypatch):
    from lgermt.evaluation import scoring
    from lgermt.training.trainer import Trainer

    def greedy(*_, **__):
        torch.empty(10**15)

    monkeypatch.setattr(Trainer, "step", greedy)
    line = train(scans, tmp_path / "out", "--iterations", 4, code=2).errors[-1]
    assert all(option in line for option in ("--batch-size", "--patch", "--precision bf16"))
    monkeypatch.setattr(scoring, "sliding_window", greedy)
    said = evaluate(scans, tmp_path / "no.json", "--checkpoint", finished / "last.pt", code=2)
    assert "out of memory" in said.errors[-1]
    assert not (tmp_path / "no.json").exists()


def test_checkpoints_that_cannot_be_resumed(scans, finished, tmp_path):
    def refused(change):
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(finished, out)
        change(out / "last.pt")
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        (line,) = train(scans, out, "--iterations", 12, "--resume", code=2).errors
        assert "last.pt" in line and before == {
            path.name: path.read_bytes() for path in out.iterdir()
        }
        return line

    def changed(edit):
        def change(path):
            state = torch.load(path, weights_only=True)
            edit(state)
            torch.save(state, path)

        return change

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    assert "read safely" in refused(lambda path: path.write_bytes(path.read_bytes()[:-1000]))
    assert "read safely" in refused(lambda path: path.write_bytes(b""))
    assert (
        "read safely" in refused(lambda path: torch.save({"student": Bomb()}, path))
        and not (tmp_path / "exploded").exists()
    )
    assert "has no optimizer" in refused(changed(lambda state: state.pop("optimizer")))
    assert "does not fit" in refused(
        changed(lambda state: state["student"].pop("classifier.weight"))
    )
    assert "does not fit" in refused(changed(lambda state: state.pop("teacher")))
    assert "--base-channels 2 (was 4)" in refused(
        changed(lambda state: state["config"].update(base_channels=4))
    )


def test_checkpoints_that_cannot_be_trusted(scans, finished, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"student": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "half.pt").write_bytes((finished / "last.pt").read_bytes()[:5000])
    state = torch.load(finished / "last.pt", weights_only=True)
    state["config"]["base_channels"] = 4
    torch.save(state, tmp_path / "other.pt")
    for name in ("bomb.pt", "half.pt", "other.pt", "missing.pt"):
        checkpoint = "--checkpoint", tmp_path / name
        (line,) = evaluate(scans, tmp_path / "no.json", *checkpoint, code=2).errors
        assert name in line
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "no.json").exists()


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(scans, tmp_path):
    out = tmp_path / "diverged"
    line = train(
        scans, out, "--iterations", 40, "--learning-rate", 1e20, "--norm", "none", code=1
    ).errors[-1]
    assert "no number" in line and "phantom_" in line
    assert not (out / "last.pt").exists()
