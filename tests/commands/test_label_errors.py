"""`check --checkpoint`: labels that a network contradicts, in prepared sets and in sources."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from helpers import run, train
from scipy import ndimage

from lgermt import check as module
from lgermt.data.datasets import write_phantoms
from lgermt.data.io import read_h5, write_h5
from lgermt.data.phantom import make_phantom
from lgermt.data.splits import read_list
from lgermt.data.volume import Volume
from lgermt.training.checkpoint import load_model

SHAPE, SPACING = (48, 40, 32), (2.5, 2.25, 1.875)
LPS = np.diag([-2.5, -2.25, 1.875, 1.0])  # nibabel's affine of an upright scan
LPS[:3, 3] = (60.0, 45.0, -30.0)


class Threshold(torch.nn.Module):
    "A network that finds whatever is bright: the true atrium in the scans below."

    def __init__(self):
        super().__init__()
        self.steepness = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, images):
        bright = self.steepness * (images[:, :1] - 1)
        return torch.cat([torch.zeros_like(bright), bright], 1)


@pytest.fixture
def threshold(finished, monkeypatch):
    "A finished run whose network is exchanged for the threshold."
    config = load_model(finished, "cpu")[1]
    monkeypatch.setattr(module, "load_model", lambda *_, **__: (Threshold().eval(), config))
    return finished


def bright_scan(number):
    "A scan in which the atrium alone is bright, and its annotation."
    label = make_phantom((7, number), SHAPE, SPACING)[1]
    noise = np.random.default_rng(number).normal(0, 0.1, SHAPE)
    image = ndimage.gaussian_filter(label.astype(float), 0.7) + noise
    return ((image - image.mean()) / image.std()).astype(np.float32), label


def spoilt_labels():
    "Twelve labels, four of them spoilt, and what is wrong with these."
    labels = [bright_scan(number)[1] for number in range(12)]
    kinds = {3: "mirrored", 5: "shifted", 8: "missing", 10: "another scan's"}
    body = ndimage.binary_opening(labels[8], np.ones((7, 7, 7)))
    vein = labels[8].astype(bool) & ~body & (np.arange(SHAPE[0]) > 30)[:, None, None]
    spoilt = {
        3: labels[3][:, ::-1],
        5: np.roll(labels[5], 4, 1),
        8: np.where(vein, 0, labels[8]),
        10: labels[11],
    }
    return [spoilt.get(number, label) for number, label in enumerate(labels)], kinds


def assert_found(rows, kinds):
    "The spoilt labels come first, suspicious and with the right kind; no other is suspicious."
    named = {}
    for row in rows:
        if row["network"]["suspicious"]:
            named[int(row["id"][1:])] = row["network"]["explanation"]["kind"]
            assert "the network contradicts the label" in row["warnings"][0]
    assert named == kinds
    assert {int(row["id"][1:]) for row in rows[: len(kinds)]} == set(kinds)
    assert [row["network"]["rank"] for row in rows] == list(range(1, len(rows) + 1))


def test_spoilt_labels_of_a_prepared_set_come_first(threshold, tmp_path):
    labels, kinds = spoilt_labels()
    for number, label in enumerate(labels):
        image = bright_scan(number)[0]
        write_h5(tmp_path / "set" / f"s{number}" / "mri_norm2.h5", Volume(image, label, SPACING))
    for _ in range(2):  # the second time the page is there and is its own
        said = run("check", tmp_path / "set", "--checkpoint", threshold, "--workers", 1)
    content = json.loads((tmp_path / "set" / "check.json").read_text())
    assert_found(content["scans"], kinds)
    printed = said.out.getvalue()
    assert "contradicts 4 of 12 labels more than is usual" in printed
    assert printed.index("! the network contradicts") < printed.index("s0 ")
    assert content["network"]["checkpoint"] == str(threshold)
    assert content["network"]["groups"].keys() == {"all"}
    page = (tmp_path / "set" / "check.html").read_text()
    assert page.count('class="odd contradicted"') == 4 and "its largest contradiction" in page
    assert not any("network" in row for row in json.loads(check_without(tmp_path / "set"))["scans"])


def check_without(folder):
    "check.json of a call without a network."
    run("check", folder, "--workers", 1)
    return (folder / "check.json").read_text()


def test_a_source_is_read_as_predict_reads_it(threshold, tmp_path):
    labels, kinds = spoilt_labels()
    for number, label in enumerate(labels):
        arrays = {"": 400 + 100 * bright_scan(number)[0], "_seg": label.astype(np.uint8)}
        for ending, array in arrays.items():
            image = nibabel.Nifti1Image(array, LPS)
            if number % 2:
                image = nibabel.as_closest_canonical(image)  # stored in another order
            (tmp_path / "source").mkdir(exist_ok=True)
            nibabel.save(image, tmp_path / "source" / f"s{number}{ending}.nii.gz")
    page = tmp_path / "page.html"
    options = "--checkpoint", threshold, "--workers", 1, "--out", page
    run("check", tmp_path / "source", *options)
    rows = json.loads(page.with_suffix(".json").read_text())["scans"]
    assert_found(rows, kinds)
    missing = next(row for row in rows if row["id"] == "s8")
    at = tuple(missing["network"]["piece"]["at"])
    assert labels[8][at] == 0 and bright_scan(8)[1][at] == 1
    mirrored = next(row for row in rows if row["id"] == "s3")  # s3 lies in RAS
    stored = np.asarray(nibabel.load(tmp_path / "source" / "s3_seg.nii.gz").dataobj)
    piece = mirrored["network"]["piece"]
    assert stored[tuple(piece["at"])] == piece["annotated"]
    assert "mirrored along front-back (y)" in mirrored["warnings"][0]


def test_labels_that_were_trained_with_are_told_apart(scans, finished, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    run("check", folder, "--checkpoint", finished, "--workers", 1)
    content = json.loads((folder / "check.json").read_text())
    rows = {row["id"]: row["network"] for row in content["scans"]}
    labeled = read_list(folder / "train.list")[:2]
    assert sorted(name for name, row in rows.items() if row["trained"]) == sorted(labeled)
    assert any("2 of the labels were trained with" in line for line in content["network"]["lines"])
    path = folder / labeled[0] / "mri_norm2.h5"
    other = read_h5(path)
    write_h5(path, Volume(other.image[::-1].copy(), other.label, other.spacing))
    run("check", folder, "--checkpoint", finished, "--workers", 1)
    rows = json.loads((folder / "check.json").read_text())["scans"]
    trained = [row["id"] for row in rows if row["network"]["trained"]]
    assert trained == labeled[1:]  # the other one has the same ID and is another scan


def test_several_classes_and_networks_that_do_not_fit(finished, scans, tmp_path):
    parts = tmp_path / "parts"
    write_phantoms(parts, train=4, test=1, shape=(40, 36, 32), spacing=(3.0, 2.5, 1.9), parts=True)
    (line,) = run("check", parts, "--checkpoint", finished, code=2).errors
    assert "has the channels t1, lge; the model was trained with image" in line
    assert not (parts / "check.html").exists()
    train(parts, tmp_path / "run", "--iterations", 2)
    run("check", parts, "--checkpoint", tmp_path / "run", "--workers", 1)
    rows = json.loads((parts / "check.json").read_text())["scans"]
    assert [row["network"]["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(0 <= row["network"]["dice"] <= 1 for row in rows)
    (line,) = run("check", scans, "--checkpoint", tmp_path / "run", code=2).errors
    assert "has the channels image" in line


def test_mistakes_are_one_line(finished, scans, tmp_path):
    (line,) = run("check", scans, "--checkpoint", tmp_path / "none", code=2).errors
    assert "no such checkpoint" in line
    for number in range(2):
        image, _ = bright_scan(number)
        write_h5(tmp_path / "bare" / f"s{number}" / "mri_norm2.h5", Volume(image, None, SPACING))
    said = run("check", tmp_path / "bare", "--checkpoint", finished, "--workers", 1, code=2)
    assert "no scan of this set is annotated" in said.errors[-1]
    assert not (tmp_path / "bare" / "check.html").exists()
