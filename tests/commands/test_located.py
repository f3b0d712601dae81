"""`--crop located`: the localizer of a set, and its way through train, predict and export."""

import dataclasses
import json
import shutil
import tracemalloc

import nibabel
import numpy as np
import pytest
import torch
from helpers import run
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lgermt import prepare as prepare_module
from lgermt.data.case_inputs import read_attributes
from lgermt.data.io import read_h5
from lgermt.data.scan_inputs import ScanFiles
from lgermt.evaluation import located_set, segmentation
from lgermt.evaluation.localizer import Located, load_localizer, localizer_config
from lgermt.evaluation.metrics import dice
from lgermt.training.checkpoint import load_checkpoint
from lgermt.training.config import TrainConfig

SHAPE, SIDE = (26, 24, 20), 5.0  # voxels; mm
LPS = np.diag([-SIDE, -SIDE, SIDE, 1.0])  # nibabel's affine of an upright scan
LPS[:3, 3] = (40.0, 25.0, -60.0)
OPTIONS = ("--crop", "located", "--patch", 16, 16, 16, "--workers", 1, "--device", "cpu")


def scan(number, signal=6.0):
    "Noise with a bright box somewhere, and that box."
    generator = np.random.default_rng((5, number))
    corner = [int(generator.integers(2, side - 9)) for side in SHAPE]
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(first, first + 7) for first in corner)] = 1
    image = 300 + 40 * (generator.normal(size=SHAPE) + signal * label)
    return image.astype(np.float32), label


def save(path, array, code="LPS"):
    "A NIfTI file whose axes run in some order."
    path.parent.mkdir(parents=True, exist_ok=True)
    upright = nibabel.Nifti1Image(array, LPS)
    turn = ornt_transform(io_orientation(LPS), axcodes2ornt(code))
    nibabel.save(upright.as_reoriented(turn), path)
    return path


def write_source(folder, annotated=5, others=1):
    "A flat folder: scans s0, s1, ... in RAS, the last of them without annotation."
    for number in range(annotated + others):
        image, label = scan(number)
        save(folder / f"s{number}.nii.gz", image, "RAS")
        if number < annotated:
            save(folder / f"s{number}_seg.nii.gz", label, "RAS")
    return folder


def quick_config(volumes, seed, device="cpu"):
    "A smaller localizer, and steps that are enough for a bright box."
    config = localizer_config(volumes, seed, 20, device, base_channels=4)
    changes = dict(dropout=0.0, augmentation="none", optimizer="sgd", learning_rate=0.1)
    return dataclasses.replace(config, precision="fp32", **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "A localizer that is trained for seconds."
    monkeypatch.setattr(located_set, "localizer_config", quick_config)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    "A source and the set made of it, with two test scans; what the command said."
    folder = tmp_path_factory.mktemp("located")
    source = write_source(folder / "source")
    save(source / "empty.nii.gz", scan(0, signal=0.0)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(located_set, "localizer_config", quick_config)
        said = run("prepare", source, "--out", folder / "set", *OPTIONS, "--test", 2)
    return source, folder / "set", said.out.getvalue()


@pytest.fixture
def copied(prepared, tmp_path):
    "A copy of the two folders, to change them."
    source, out, _ = prepared
    shutil.copytree(source, tmp_path / "source")
    shutil.copytree(out, tmp_path / "set")
    return tmp_path / "source", tmp_path / "set"


def again(copied, *more, code=0):
    "The same command once more: which scans were written, and what was said."
    source, out = copied
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/mri_norm2.h5")}
    said = run("prepare", source, "--out", out, *OPTIONS, *more, code=code)
    written = [path for path in out.glob("*/mri_norm2.h5") if is_new(path, before)]
    return sorted(path.parent.name for path in written), said


def is_new(path, before):
    return before.get(path) != path.stat().st_mtime_ns


def digest(out):
    return located_set.localizer_digest(out)


def read_list(out, name):
    return (out / name).read_text().split()


# the set


def test_every_scan_is_cropped_by_the_localizer(prepared):
    _, out, said = prepared
    for number in range(6):
        volume = read_h5(out / f"s{number}" / "mri_norm2.h5")
        image, label = scan(number)
        assert all(side >= 16 for side in volume.shape) and volume.image.size < image.size
        if number < 5:  # the annotation lies inside
            assert volume.label.sum() == label.sum()
        normalised = (image - image.mean()) / image.std()
        inside = [float(value) for value in (volume.image.max(), volume.image.min())]
        assert inside[0] <= normalised.max() + 1e-3 and inside[1] >= normalised.min() - 1e-3
    assert "boxes: 100.00 % of the annotated voxels of 2 scans to score lie inside" in said


def test_a_scan_with_nothing_in_it_keeps_its_field_and_is_named(prepared):
    _, out, said = prepared
    assert read_h5(out / "empty" / "mri_norm2.h5").shape == SHAPE
    (line,) = [line for line in said.splitlines() if line.startswith("empty: ")]
    assert line.startswith("empty: keeps its whole field, for ")
    noted = read_attributes(out / "empty" / "mri_norm2.h5")
    assert noted["not_located"] in line and np.isnan(noted["annotated_inside"])


def test_the_localizer_has_seen_annotated_training_scans_alone(prepared):
    _, out, _ = prepared
    state = load_checkpoint(out / "localizer.pt")
    trained = state["scans"]["labeled"]
    assert trained == read_list(out, "train.list")[:3]
    assert not set(trained) & set(read_list(out, "test.list"))
    assert not {"s5", "empty"} & set(trained)  # without annotation
    note = json.loads((out / "prepare.json").read_text())
    assert note["localizer"] == digest(out) and note["settings"]["crop"] == "located"
    assert load_localizer(out / "localizer.pt").least == (16, 16, 16)


def test_no_more_annotations_than_labeled_says(copied):
    (copied[1] / "localizer.pt").unlink()
    written, _ = again(copied, "--labeled", 2)
    state = load_checkpoint(copied[1] / "localizer.pt")
    assert state["scans"]["labeled"] == read_list(copied[1], "train.list")[:2]
    assert len(written) == 7


def test_the_same_seed_gives_the_same_localizer_and_boxes(prepared, tmp_path):
    source, out, _ = prepared
    run("prepare", source, "--out", tmp_path / "set", *OPTIONS, "--test", 2)
    assert digest(tmp_path / "set") == digest(out)
    for path in sorted(out.glob("*/mri_norm2.h5")):
        one, other = read_h5(path), read_h5(tmp_path / "set" / path.parent.name / path.name)
        np.testing.assert_array_equal(one.image, other.image)
        assert one.origin == other.origin


# the same command again


def test_an_added_scan_is_located_and_the_others_stay(copied):
    before = digest(copied[1])
    assert again(copied)[0] == []
    image, label = scan(7)
    save(copied[0] / "s7.nii.gz", image, "PIR")
    save(copied[0] / "s7_seg.nii.gz", label, "PIR")
    written, said = again(copied)
    assert written == ["s7"] and digest(copied[1]) == before
    volume = read_h5(copied[1] / "s7" / "mri_norm2.h5")
    assert volume.label.sum() == label.sum() and volume.shape < SHAPE
    assert "s7" in read_list(copied[1], "train.list")
    assert "empty: keeps its whole field" in said.out.getvalue()  # said every time


def test_a_training_scan_that_is_scored_now_takes_another_localizer(copied, tmp_path):
    before, trained = digest(copied[1]), load_localizer(copied[1] / "localizer.pt").scans
    names = tmp_path / "test.list"
    names.write_text("\n".join([trained[0], *read_list(copied[1], "test.list")[:1]]))
    written, said = again(copied, "--redraw-lists", "--test", names)
    assert digest(copied[1]) != before and len(written) == 7
    line = f"the localizer was trained with {trained[0]}, to be scored now: it is trained anew"
    assert line in said.out.getvalue()
    assert trained[0] not in load_localizer(copied[1] / "localizer.pt").scans


def test_a_test_scan_that_is_trained_with_now_changes_nothing(copied, tmp_path):
    before, names = digest(copied[1]), tmp_path / "test.list"
    names.write_text(read_list(copied[1], "test.list")[0])
    written, _ = again(copied, "--redraw-lists", "--test", names)
    assert written == [] and digest(copied[1]) == before


def test_overwrite_trains_anew(copied):
    written, _ = again(copied, "--overwrite", "--seed", 1)
    assert len(written) == 7
    assert load_localizer(copied[1] / "localizer.pt").config.seed == 1


def test_a_stopped_command_goes_on(copied, monkeypatch):
    source, out = copied
    prepare_case, done = prepare_module.prepare_case, []

    def stop_at_the_third(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return prepare_case(*arguments)

    fresh = out.with_name("fresh")
    monkeypatch.setattr(prepare_module, "prepare_case", stop_at_the_third)
    run("prepare", source, "--out", fresh, *OPTIONS, "--test", 2, code=130)
    monkeypatch.setattr(prepare_module, "prepare_case", prepare_case)
    stopped = digest(fresh)
    written, _ = again((source, fresh), "--test", 2)
    assert len(written) == 5 and digest(fresh) == stopped == digest(out)


# mistakes


def test_one_annotated_scan_is_too_few(tmp_path):
    source = write_source(tmp_path / "source", annotated=1)
    (line,) = errors_of(run("prepare", source, "--out", tmp_path / "set", *OPTIONS, code=2))
    assert "1 annotated training scan(s), but a localizer is trained with at least 2" in line


def errors_of(said):
    "Lines of the command's own; progress bars left out."
    lines = said.err.getvalue().replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("lgermt.")]


def test_a_damaged_localizer_is_one_line(copied):
    (copied[1] / "localizer.pt").write_bytes(b"torn")
    (line,) = errors_of(again(copied, code=2)[1])
    assert "localizer.pt: cannot be read as a localizer" in line and "--overwrite" in line


# the network of such a set


def train(data, out, *more, code=0):
    "A few steps, but enough for a bright box."
    size = "--patch", 16, 16, 16, "--stride", 8, 8, 8, "--base-channels", 4
    method = "--method", "vnet", "--learning-rate", 0.1, "--labeled", 3, "--device", "cpu"
    return run("train", "--data", data, "--out", out, *size, *method, *more, code=code)


def predict(checkpoint, out, *more):
    arguments = "--checkpoint", checkpoint, "--out", out, "--device", "cpu"
    return run("predict", *arguments, *more).out.getvalue()


def mask_of(out, case):
    "A mask, turned to LPS."
    mask = nibabel.load(out / f"{case}_pred.nii.gz")
    turn = ornt_transform(io_orientation(mask.affine), axcodes2ornt("LPS"))
    upright = mask.as_reoriented(turn)
    np.testing.assert_allclose(upright.affine, LPS, atol=1e-4)
    return np.asarray(upright.dataobj)


@pytest.mark.slow
def test_from_whole_scans_to_masks(prepared, tmp_path):
    _, out, _ = prepared
    train(out, tmp_path / "run", "--iterations", 60)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["localizer"]["scans"] == load_checkpoint(out / "localizer.pt")["scans"]
    assert "localizer" not in json.loads((tmp_path / "run" / "config.json").read_text())

    image, label = scan(11)  # a new patient, lying otherwise
    new = save(tmp_path / "new" / "lying.nii.gz", image, "IAR")
    nothing = save(tmp_path / "new" / "nothing.nii.gz", scan(12, signal=0.0)[0])
    said = predict(tmp_path / "run", tmp_path / "masks", new, nothing)
    lines = {line.split(":")[0]: line for line in said.splitlines()}
    assert "found in the box " in lines["lying"]
    assert "searched as a whole: " in lines["nothing"]
    mask = mask_of(tmp_path / "masks", "lying")
    assert dice(mask, label) > 0.5

    # outside of the box there is nothing, also where the network would find something
    ranges = lines["lying"].split("found in the box ")[1].split(")")[0].split()
    box = tuple(slice(*map(int, ends.split("-"))) for ends in ranges)
    stored = np.asarray(nibabel.load(tmp_path / "masks" / "lying_pred.nii.gz").dataobj)
    assert stored[box].sum() == stored.sum() and stored[box].size < stored.size
    whole = predict(tmp_path / "run", tmp_path / "whole", new, "--whole-scan")
    assert "box" not in whole

    # the exported folder and the graph give the same mask
    run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "model", "--onnx")
    assert "the crop is located" in (tmp_path / "model" / "README.md").read_text()
    for form in ("model", "model/model.onnx"):
        predict(tmp_path / form, tmp_path / "of_model", new, "--overwrite")
        assert np.mean(mask_of(tmp_path / "of_model", "lying") == mask) > 0.9999
    predict(tmp_path / "model", tmp_path / "of_model", new, "--overwrite")
    np.testing.assert_array_equal(mask_of(tmp_path / "of_model", "lying"), mask)
    run("export", "--checkpoint", tmp_path / "model", "--out", tmp_path / "handed_on")
    assert (tmp_path / "handed_on" / "localizer.safetensors").exists()


@pytest.mark.slow
def test_a_scan_of_the_set_is_seen_as_it_was_prepared(prepared, tmp_path):
    source, out, _ = prepared
    train(out, tmp_path / "run", "--iterations", 20)
    case = read_list(out, "test.list")[0]
    predict(tmp_path / "run", tmp_path / "raw", source / f"{case}.nii.gz", "--probabilities")
    predict(tmp_path / "run", tmp_path / "set", out / case / "mri_norm2.h5", "--probabilities")
    raw, small = (
        nibabel.load(tmp_path / folder / f"{case}_prob.nii.gz") for folder in ("raw", "set")
    )
    turn = ornt_transform(io_orientation(raw.affine), axcodes2ornt("LPS"))
    whole = np.asarray(raw.as_reoriented(turn).dataobj)
    inside = np.asarray(small.dataobj)
    first = np.linalg.solve(LPS, small.affine @ [0, 0, 0, 1])[:3].round().astype(int)
    box = tuple(slice(low, low + side) for low, side in zip(first, inside.shape))
    np.testing.assert_allclose(whole[box], inside, atol=1e-4)
    whole[box] = 0
    assert not whole.any()


@pytest.mark.slow
def test_a_resumed_run_keeps_its_localizer(copied, tmp_path):
    out = copied[1]
    train(out, tmp_path / "whole", "--iterations", 6)
    train(out, tmp_path / "run", "--iterations", 6, "--checkpoint-every", 3)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    stopped = {**state, "iteration": 3}
    torch.save(stopped, tmp_path / "run" / "last.pt")
    (out / "localizer.pt").unlink()  # a resumed run does not need the set's
    train(out, tmp_path / "run", "--iterations", 6, "--resume")
    kept = load_localizer(tmp_path / "run")
    assert kept.scans == load_localizer(tmp_path / "whole").scans
    line = errors_of(train(out, tmp_path / "new", "--iterations", 2, code=2))[0]
    assert "localizer.pt: is not the localizer that the scans were cropped with" in line
    assert not (tmp_path / "new" / "last.pt").exists()


@pytest.mark.slow
def test_fewer_annotations_than_the_localizer_had_are_said(prepared, tmp_path):
    said = train(prepared[1], tmp_path / "run", "--iterations", 2, "--labeled", 2)
    assert "trained with 3 annotated scans, 1 of them not among" in said.out.getvalue()


# memory


class OneConvolution(torch.nn.Module):
    "A network whose own memory is small."

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)

    def forward(self, images):
        return self.layer(images)


@pytest.mark.parametrize("located", [False, True])
def test_a_whole_scan_is_not_copied_often(tmp_path, monkeypatch, located):
    "NumPy's share of the memory, in images of float32; PyTorch's is one sum and one mean."
    sides = (160, 160, 64)
    array = np.random.default_rng(0).integers(0, 1000, sides).astype(np.int16)
    path = save(tmp_path / "large.nii", array, "RAS")
    size = {"patch": (64, 64, 48), "stride": (64, 64, 48)}
    config = TrainConfig("x", tmp_path, orientation="LPS", spacing=(SIDE,) * 3, **size)
    box = Located(((40, 104), (40, 104), (8, 56))) if located else Located(None, "nothing")
    monkeypatch.setattr(segmentation, "locate", lambda localizer, volume: box)
    files = ScanFiles("large", (path,))
    tracemalloc.start()
    try:
        found = segmentation.segment_scan(files, [OneConvolution()], config, localizer="any")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.classes.shape == tuple(sides)
    print(peak / (4 * array.size))
    assert peak < 7 * 4 * array.size
