"""Four classes on two channels: every row trains, scores, predicts; the export equals it."""

import json

import numpy as np
import pytest
import torch
from helpers import run, train
from medpy.metric import binary

from lgermt.data.datasets import load_scan, write_phantoms
from lgermt.data.io import read_scan
from lgermt.data.phantom import PART_NAMES
from lgermt.data.splits import read_list
from lgermt.training.methods import METHODS

STEPS = ["--iterations", 2, "--log-every", 1]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    "Four phantoms of three parts in two channels, one of them to score."
    folder = tmp_path_factory.mktemp("parts") / "parts"
    spacing = (3.0, 2.5, 1.9)
    write_phantoms(folder, train=3, test=1, shape=(40, 36, 32), spacing=spacing, parts=True)
    return folder


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    "A run of LG-ER-MT."
    out = tmp_path_factory.mktemp("parts_runs") / "run"
    train(parts, out, *STEPS, "--labeled", 2)
    return out


@pytest.fixture(scope="module")
def mask(parts, trained, tmp_path_factory):
    "Its mask of the test scan, in class numbers."
    out = tmp_path_factory.mktemp("parts_masks")
    scan = parts / "phantom_003" / "mri_norm2.h5"
    run("predict", "--checkpoint", trained / "last.pt", "--out", out, "--device", "cpu", scan)
    return read_scan(out / "phantom_003_pred.nii.gz").image.astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_classes_and_channels(parts, tmp_path, method):
    train(parts, tmp_path / "run", *STEPS, "--method", method)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [value for line in lines for value in json.loads(line).values()]
    assert len(lines) == 2 and np.isfinite(losses).all()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"] == list(PART_NAMES) and config["channels"] == ["t1", "lge"]
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["student"]
    shapes = [tuple(value.shape) for value in state.values() if value.ndim == 5]
    assert shapes[0][1] == 2 and shapes[-1][0] == 4  # of the first and of the last convolution
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["classes"]) == list(PART_NAMES)


def test_scores_of_every_class_are_those_of_medpy(parts, trained, mask, tmp_path):
    case = read_list(parts / "test.list")[0]
    truth = load_scan(parts, case, labeled=True).label
    options = ["--checkpoint", trained / "last.pt", "--data", parts, "--device", "cpu"]
    run("evaluate", *options, "--out", tmp_path / "scores.json")
    scored = json.loads((tmp_path / "scores.json").read_text())["cases"][0]["classes"]
    for number, name in enumerate(PART_NAMES, 1):
        expected = binary.dc(mask == number, truth == number)
        assert scored[name]["dice"] == pytest.approx(expected, abs=1e-9)


def test_masks_are_scored_as_the_network_is(parts, trained, mask, tmp_path):
    options = ["--data", parts, "--device", "cpu"]
    folder = tmp_path / "masks"
    scan = parts / "phantom_003" / "mri_norm2.h5"
    run("predict", "--checkpoint", trained / "last.pt", "--out", folder, "--device", "cpu", scan)
    run("evaluate", *options, "--checkpoint", trained / "last.pt", "--out", tmp_path / "n.json")
    run("evaluate", *options, "--predictions", folder, "--out", tmp_path / "m.json")
    network, masks = (json.loads((tmp_path / name).read_text()) for name in ("n.json", "m.json"))
    assert masks["classes"] == network["classes"]


@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_the_exported_model_predicts_the_same(parts, trained, mask, tmp_path, kind):
    run("export", "--checkpoint", trained / "last.pt", "--out", tmp_path / "model", "--onnx")
    model = tmp_path / "model" / "model.onnx" if kind == "onnx" else tmp_path / "model"
    scan = parts / "phantom_003" / "mri_norm2.h5"
    options = ["--out", tmp_path / "masks", "--device", "cpu", "--probabilities"]
    run("predict", "--checkpoint", model, *options, scan)
    found = read_scan(tmp_path / "masks" / "phantom_003_pred.nii.gz").image
    assert (found != mask).mean() < 1e-3
    total = 0
    for name in PART_NAMES:
        total = total + read_scan(tmp_path / "masks" / f"phantom_003_{name}_prob.nii.gz").image
    assert total.min() >= 0 and total.max() <= 1 + 1e-4
