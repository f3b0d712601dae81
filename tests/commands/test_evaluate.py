"""`evaluate`: where masks lie, which scans a model has seen, what it fits, what is written."""

import csv
import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from helpers import TINY, run, train
from medpy.metric import binary
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lgermt.data.io import write_h5
from lgermt.data.volume import Volume

STEPS = ["--method", "mt", "--iterations", 2]
AFFINE = np.array(  # of scans in LPS, 1.25 x 1.5 x 2 mm, somewhere
    [[-1.25, 0, 0, 30.0], [0, -1.5, 0, 40.0], [0, 0, 2.0, -50.0], [0, 0, 0, 1.0]]
)
GEOMETRY = ((1.25, 1.5, 2.0), (-30.0, -40.0, -50.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def blob(number):
    "A lopsided label of three classes; no mirror image of it is like it."
    x, y, z = np.meshgrid(*[np.arange(n) / n for n in (40, 36, 24)], indexing="ij")
    label = (((x - 0.4) / 0.3) ** 2 + ((y - 0.55) / 0.2) ** 2 + ((z - 0.45) / 0.3) ** 2 < 1) * 1
    label[(abs(y - 0.4) < 0.1) & (abs(z - 0.5) < 0.12) & (x > 0.4) & (x < 0.7 + 0.05 * number)] = 2
    label[(abs(y - 0.75) < 0.08) & (abs(z - 0.3) < 0.1) & (x < 0.3)] = 3
    return label.astype(np.uint8)


def write_set(folder, classes=("atrium",), values=(1,), geometry=GEOMETRY, count=3, **note):
    "Scans c0, c1, ... in the published layout, the last of them to test on."
    for number in range(count):
        label = blob(number)
        label[label > len(classes)] = 0
        noise = np.random.default_rng(number).standard_normal(label.shape)
        image = (noise + 2 * (label > 0)).astype(np.float32)
        volume = Volume(image, label, *(geometry or ()), id=f"c{number}")
        write_h5(folder / volume.id / "mri_norm2.h5", volume)
    ids = [f"c{number}" for number in range(count)]
    (folder / "train.list").write_text("\n".join(ids[:-1]))
    (folder / "test.list").write_text(ids[-1])
    note = {"spacing": None, "classes": classes, "label_values": values, **note}
    (folder / "prepare.json").write_text(json.dumps(note))
    return folder


def label_of(folder, case):
    with h5py.File(folder / case / "mri_norm2.h5") as file:
        return file["label"][()]


def write_nifti(path, array, affine=AFFINE, code=None):
    "A mask as other programs write it; with a code, in another order of its axes."
    image = nibabel.Nifti1Image(array, affine)
    if code:
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(code))
        image = image.as_reoriented(turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def evaluate(data, out, *more, code=0):
    return run("evaluate", "--data", data, "--out", out, "--device", "cpu", *more, code=code)


def warnings_of(said):
    "Lines of warning, without the bars."
    return [line for line in said.errors if "warning:" in line]


def read(path):
    return json.loads(path.read_text())


def dice_of(data, masks, out, *more):
    "The one score of a folder of masks, and the warnings."
    said = evaluate(data, out, "--predictions", masks, *more)
    return read(out)["mean"]["dice"], warnings_of(said)


@pytest.fixture(scope="module")
def atria(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("atria"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return write_set(folder, ("body", "veins", "aorta"), (2, 7, 420))


@pytest.mark.parametrize("code", ["LPS", "RPS", "RAS", "LAS", "PSL", "ASR", "IRP"])
def test_a_mask_in_another_order_of_its_axes_is_the_same_mask(atria, tmp_path, code):
    write_nifti(tmp_path / "c2_pred.nii.gz", label_of(atria, "c2"), code=code)
    dice, warnings = dice_of(atria, tmp_path, tmp_path / "s.json")
    assert dice == 1 and not warnings


def test_a_mask_beside_the_scan_is_refused_with_both_positions(atria, tmp_path):
    beside = AFFINE.copy()
    beside[0, 3] += 20
    index_only = np.eye(4)  # as saved by hand, without the scan's header
    for name, affine in (("beside", beside), ("index", index_only)):
        write_nifti(tmp_path / name / "c2_pred.nii.gz", label_of(atria, "c2"), affine)
        folder = ["--predictions", tmp_path / name]
        (line,) = evaluate(atria, tmp_path / "s.json", *folder, code=2).errors
        assert "does not lie on c2" in line and "mm" in line
    assert "-30.00" in line or "-50.00" in line
    assert not (tmp_path / "s.json").exists()


def test_a_mask_of_other_voxels_is_refused(atria, tmp_path):
    label = label_of(atria, "c2")
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    for array, size in ((label, affine), (label[:-1], AFFINE)):
        write_nifti(tmp_path / "c2_pred.nii.gz", array, size)
        masks = ["--predictions", tmp_path]
        assert "c2" in evaluate(atria, tmp_path / "s.json", *masks, code=2).errors[0]


def test_a_mask_of_the_whole_scan_is_cut_to_the_box_of_a_prepared_one(tmp_path):
    source, data, masks = (tmp_path / name for name in ("source", "data", "masks"))
    rows = ["id,image,label"]
    for number in range(3):
        label = np.pad(blob(number) > 0, ((30, 25), (30, 20), (2, 3))).astype(np.uint8)
        noise = np.random.default_rng(number).standard_normal(label.shape)
        image = (100 + 20 * noise + 40 * label).astype(np.float32)
        write_nifti(source / f"im{number}.nii.gz", image, code="RAS")
        write_nifti(source / f"lb{number}.nii.gz", label, code="RAS")
        write_nifti(masks / f"case{number}_pred.nii.gz", label, code="RAS")
        rows.append(f"case{number},im{number}.nii.gz,lb{number}.nii.gz")
    (source / "table.csv").write_text("\n".join(rows))
    cropped = ["--crop", "label", "--patch", 32, 32, 16, "--workers", 1]
    run("prepare", source / "table.csv", "--out", data, *cropped)
    sides = label_of(data, "case2").shape
    assert np.prod(sides) < label.size  # it was cut
    split = ["--split", data / "train.list"]
    dice, warnings = dice_of(data, masks, tmp_path / "s.json", *split)
    assert dice == 1
    assert len(warnings) == 3 and all("cut to the box of case" in line for line in warnings)


def test_without_a_position_the_shape_decides_and_a_line_says_so(atria, tmp_path):
    label = label_of(atria, "c2")
    with h5py.File(tmp_path / "c2_pred.h5", "w") as file:
        file["label"] = label
    dice, (warning,) = dice_of(atria, tmp_path, tmp_path / "s.json")
    assert dice == 1 and "does not say where it lies" in warning
    with h5py.File(tmp_path / "c2_pred.h5", "w") as file:
        file["label"] = label[1:]
    folder = ["--predictions", tmp_path]
    assert "c2" in evaluate(atria, tmp_path / "t.json", *folder, code=2).errors[0]

    nowhere = write_set(tmp_path / "nowhere", geometry=None)
    write_nifti(tmp_path / "masks" / "c2_pred.nii.gz", label)
    dice, (warning,) = dice_of(nowhere, tmp_path / "masks", tmp_path / "u.json")
    assert dice == 1 and "does not say where it lies" in warning


def test_several_classes_are_scored_as_medpy_scores_the_files(parts, tmp_path):
    label = label_of(parts, "c2")
    mask = np.roll(label, 2, 0)  # moved, and one class of it partly lost
    mask[(mask == 2) & (np.arange(mask.shape[0]) > 22)[:, None, None]] = 0
    values = np.array([0, 2, 7, 420])
    path = tmp_path / "c2_pred.nii.gz"
    write_nifti(path, values[mask].astype(np.int16), code="PIR")
    out = tmp_path / "s.json"
    said = evaluate(parts, out, "--predictions", tmp_path)
    scores, (case,) = read(out), read(out)["cases"]
    assert list(scores["classes"]) == list(case["classes"]) == ["body", "veins", "aorta"]

    # what other programs see: the written mask, turned to the order of the scan
    stored = nibabel.load(path)
    turn = ornt_transform(io_orientation(stored.affine), io_orientation(AFFINE))
    stored = np.asarray(stored.as_reoriented(turn).dataobj)
    spacing = GEOMETRY[0]
    for number, (name, value) in enumerate(zip(case["classes"], values[1:]), 1):
        pair = stored == value, label == number
        expected = {
            "dice": binary.dc(*pair),
            "jaccard": binary.jc(*pair),
            "asd": binary.asd(*pair),
            "hd95": binary.hd95(*pair),
            "asd_mm": binary.asd(*pair, spacing),
            "hd95_mm": binary.hd95(*pair, spacing),
        }
        assert case["classes"][name] == pytest.approx(expected)
        assert scores["classes"][name]["mean"]["dice"] == pytest.approx(expected["dice"])
    for metric in ("dice", "jaccard", "asd", "hd95", "asd_mm", "hd95_mm"):
        of_classes = [of_class[metric] for of_class in case["classes"].values()]
        assert case[metric] == pytest.approx(np.mean(of_classes))

    (row,) = csv.DictReader(out.with_suffix(".csv").read_text().splitlines())
    assert list(row)[:7] == [
        *("id", "dice", "jaccard", "asd_voxel", "hd95_voxel", "asd_mm", "hd95_mm")
    ]
    assert float(row["veins_dice"]) == case["classes"]["veins"]["dice"]
    assert float(row["aorta_hd95_voxel"]) == case["classes"]["aorta"]["hd95"]
    printed = [line.split() for line in said.out.getvalue().splitlines()]
    (of_veins,) = [words for words in printed if words[0] == "veins"]
    assert float(of_veins[1]) == pytest.approx(100 * case["classes"]["veins"]["dice"], abs=0.005)


def test_masks_of_several_classes_have_the_values_of_the_set(parts, tmp_path):
    label = label_of(parts, "c2")
    with h5py.File(tmp_path / "c2_pred.h5", "w") as file:
        file["label"] = label  # class numbers, as in the scans
        spacing, origin, direction = GEOMETRY
        file.attrs.update(spacing=spacing, origin=origin, direction=direction)
    assert dice_of(parts, tmp_path, tmp_path / "s.json") == (1, [])
    (tmp_path / "c2_pred.h5").unlink()
    write_nifti(tmp_path / "c2_pred.nii.gz", label)  # 1, 2, 3 are no values of this set
    folder = ["--predictions", tmp_path]
    (line,) = evaluate(parts, tmp_path / "t.json", *folder, code=2).errors
    assert "c2_pred.nii.gz" in line and "2, 7, 420" in line


def test_a_folder_has_the_name_that_it_was_given(atria, tmp_path):
    write_nifti(tmp_path / "store" / "c2.nii.gz", label_of(atria, "c2"))
    (tmp_path / "theirs").symlink_to(tmp_path / "store")
    assert dice_of(atria, tmp_path / "theirs", tmp_path / "s.json") == (1, [])
    assert read(tmp_path / "s.json")["method"] == "theirs"


def test_a_lost_class_has_dice_0_and_is_counted(parts, tmp_path):
    mask = np.array([0, 2, 0, 420])[label_of(parts, "c2")]
    write_nifti(tmp_path / "c2_pred.nii.gz", mask.astype(np.int16))
    dice, _ = dice_of(parts, tmp_path, tmp_path / "s.json")
    scores = read(tmp_path / "s.json")
    assert dice == pytest.approx(2 / 3) and scores["classes"]["veins"]["mean"]["dice"] == 0
    empty = [of_class["empty_predictions"] for of_class in scores["classes"].values()]
    assert empty == [0, 1, 0] and scores["empty_predictions"] == 0


def test_an_empty_label_is_a_line(tmp_path):
    data = write_set(tmp_path / "data")
    with h5py.File(data / "c2" / "mri_norm2.h5", "r+") as file:
        file["label"][...] = 0
    write_nifti(tmp_path / "c2_pred.nii.gz", label_of(data, "c2"))
    dice, (warning,) = dice_of(data, tmp_path, tmp_path / "s.json")
    assert dice == 1 and warning == "lgermt.evaluate: warning: c2: the label is empty"


@pytest.fixture(scope="module")
def model(atria, tmp_path_factory):
    "A run on the atria: c0 annotated, c1 not, c2 to test on."
    out = tmp_path_factory.mktemp("model") / "run"
    arguments = ["--data", atria, "--out", out, *TINY, *STEPS, "--labeled", 1]
    run("train", *arguments)
    return out


def test_scans_of_the_training_are_named(atria, model, tmp_path):
    checkpoint = ["--checkpoint", model]
    assert not warnings_of(evaluate(atria, tmp_path / "fair.json", *checkpoint))
    assert "trained_with" not in read(tmp_path / "fair.json")
    redrawn = shutil.copytree(atria, tmp_path / "redrawn")
    (redrawn / "test.list").write_text("c1\nc2\n")
    (line,) = warnings_of(evaluate(redrawn, tmp_path / "s.json", *checkpoint))
    assert "1 of 2 scans were trained with: c1 (unannotated)" in line
    assert read(tmp_path / "s.json")["trained_with"] == ["c1"]
    (redrawn / "c1").rename(redrawn / "renamed")
    (redrawn / "test.list").write_text("renamed\nc2\n")
    (line,) = warnings_of(evaluate(redrawn, tmp_path / "t.json", *checkpoint))
    assert "1 of 2 scans were trained with: renamed (unannotated)" in line
    (redrawn / "test.list").write_text("c0\n")
    shutil.copy(atria / "c2" / "mri_norm2.h5", redrawn / "c0")  # another patient of this name
    (line,) = warnings_of(evaluate(redrawn, tmp_path / "u.json", *checkpoint))
    assert "1 of 1 scans have the IDs of training scans and other images" in line


def test_a_model_says_what_it_was_not_trained_for(model, tmp_path):
    checkpoint = ["--checkpoint", model]
    (line,) = evaluate(
        write_set(tmp_path / "parts", ("body", "veins"), (1, 2)),
        tmp_path / "s.json",
        *checkpoint,
        code=2,
    ).errors
    assert "has the classes body, veins" in line and "trained with atrium" in line
    channels = write_set(tmp_path / "channels", channels=["t1", "lge"])
    assert (
        "channels t1, lge" in evaluate(channels, tmp_path / "s.json", *checkpoint, code=2).errors[0]
    )
    assert not (tmp_path / "s.json").exists()


def test_another_voxel_size_or_orientation_is_said(tmp_path):
    known = dict(spacing=[1.25, 1.5, 2.0], orientation="LPS")
    data = write_set(tmp_path / "data", **known)
    train(data, tmp_path / "run", *STEPS, "--labeled", 1)
    other = (2.0, 2.0, 2.0), GEOMETRY[1], (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
    note = dict(spacing=[2.0, 2.0, 2.0], orientation="RAS")
    elsewhere = write_set(tmp_path / "elsewhere", geometry=other, **note)
    (elsewhere / "test.list").write_text("c2\n")
    shutil.rmtree(elsewhere / "c0")
    checkpoint = ["--checkpoint", tmp_path / "run"]
    of_frame = warnings_of(evaluate(elsewhere, tmp_path / "s.json", *checkpoint))
    assert len(of_frame) == 2
    assert "c2 (2 x 2 x 2 mm)" in of_frame[0] and "--spacing 1.25 1.5 2" in of_frame[0]
    assert "c2 (RAS)" in of_frame[1] and "LPS" in of_frame[1]
    assert not warnings_of(evaluate(data, tmp_path / "t.json", *checkpoint))


def test_an_exported_model_is_scored_like_its_checkpoint(atria, model, tmp_path):
    evaluate(atria, tmp_path / "run.json", "--checkpoint", model / "last.pt")
    arguments = ["--checkpoint", model / "last.pt", "--out", tmp_path / "exported"]
    run("export", *arguments, "--weights", "teacher", "--onnx")
    evaluate(atria, tmp_path / "teacher.json", "--checkpoint", model, "--weights", "teacher")
    expected = read(tmp_path / "teacher.json")
    for name in ("", "model.safetensors", "model.onnx"):
        out = tmp_path / f"exported_{name}.json"
        evaluate(atria, out, "--checkpoint", tmp_path / "exported" / name)
        scores = read(out)
        assert scores["weights"] == "teacher"
        assert scores["mean"]["dice"] == pytest.approx(expected["mean"]["dice"], abs=1e-3)
    seen = [tmp_path / "seen.json", "--split", atria / "train.list"]
    (line,) = warnings_of(evaluate(atria, *seen, "--checkpoint", tmp_path / "exported"))
    assert "2 of 2 scans were trained with: c0 (annotated) and c1 (unannotated)" in line
    student = ["--checkpoint", tmp_path / "exported", "--weights", "student"]
    assert "teacher" in evaluate(atria, tmp_path / "no.json", *student, code=2).errors[0]


@pytest.mark.parametrize("name", ["e.json", "e.csv", "e.html"])
def test_files_that_are_there_stay(atria, tmp_path, name):
    write_nifti(tmp_path / "masks" / "c2_pred.nii.gz", label_of(atria, "c2"))
    (tmp_path / name).write_text("mine\n")
    arguments = [tmp_path / "e.json", "--predictions", tmp_path / "masks"]
    (line,) = evaluate(atria, *arguments, code=2).errors
    assert name in line and "--overwrite" in line
    assert (tmp_path / name).read_text() == "mine\n" and len(list(tmp_path.glob("e.*"))) == 1
    evaluate(atria, *arguments, "--overwrite")
    assert len(list(tmp_path.glob("e.*"))) == 3 and (tmp_path / name).read_text() != "mine\n"


def test_names_with_dots_have_tables_of_their_own(atria, tmp_path):
    write_nifti(tmp_path / "masks" / "c2_pred.nii.gz", label_of(atria, "c2"))
    for name in ("s.lr1", "s.lr2"):
        evaluate(atria, tmp_path / name, "--predictions", tmp_path / "masks")
    names = {path.name for path in tmp_path.glob("s.*")}
    assert names == {f"s.lr{n}{suffix}" for n in (1, 2) for suffix in ("", ".csv", ".html")}


def test_a_place_that_cannot_be_written_is_noticed_first(atria, tmp_path):
    (tmp_path / "file").write_text("")
    nothing = ["--checkpoint", tmp_path / "none.pt"]
    (line,) = evaluate(atria, tmp_path / "file" / "s.json", *nothing, code=2).errors
    assert "cannot write" in line


def test_a_comparison_of_several_classes_has_a_table_of_each(parts, tmp_path):
    shared = ["--runs", tmp_path / "runs", *TINY, *STEPS[2:], "--labeled", 1, "--seeds", 0]
    arguments = ["--data", parts, "--out", tmp_path / "results", "--methods", "vnet", "mt"]
    said = run("compare", *arguments, *shared)
    table = (tmp_path / "results" / "table.md").read_text()
    assert table in said.out.getvalue() and "mean over its classes body, veins, aorta" in table
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| MT")]
    assert [row[2] for row in rows] == ["1", "body", "veins", "aorta"]
    result = read(tmp_path / "results" / "mt_1_0.json")
    printed = [float(row[3].split()[0]) for row in rows]
    of_classes = [of_class["mean"]["dice"] for of_class in result["classes"].values()]
    expected = 100 * np.array([np.mean(of_classes), *of_classes])
    assert printed == pytest.approx(expected, abs=0.0051)
    summary = read(tmp_path / "results" / "summary.json")
    assert list(summary["rows"][1]["classes"]) == ["body", "veins", "aorta"]

    checkpoint = ["--checkpoint", tmp_path / "runs" / "mt_1_0"]
    evaluate(parts, tmp_path / "s.json", *checkpoint)
    for name, of_class in read(tmp_path / "s.json")["classes"].items():
        assert of_class["mean"] == pytest.approx(result["classes"][name]["mean"])
