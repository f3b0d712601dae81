"""`predict` and `export`: the mask's place in the patient, repeated calls, bad scans, folders."""

import csv
import dataclasses
import itertools
import json
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from helpers import run
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lgermt import predict as module
from lgermt.data.io import read_h5, write_h5
from lgermt.data.phantom import make_phantom
from lgermt.data.volume import Volume
from lgermt.evaluation.sliding_window import sliding_window
from lgermt.training import checkpoint as checkpoint_module
from lgermt.training.checkpoint import load_model, save_checkpoint
from lgermt.training.trainer import Trainer

SHAPE, SPACING = (40, 36, 32), (1.25, 1.25, 1.25)
LPS = np.diag([-1.25, -1.25, 1.25, 1.0])  # nibabel's affine of an upright scan
LPS[:3, 3] = (12.5, -30.0, 7.5)
ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]


def predict(checkpoint, out, *more, code=0):
    "The command, with the scans and options in `more`."
    arguments = "--checkpoint", checkpoint, "--out", out, "--device", "cpu"
    return run("predict", *arguments, *more, code=code)


def save(path, array, affine=LPS):
    "A NIfTI file as nibabel writes it."
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array), affine), path)
    return path


def grey_values(number):
    "An upright scan as a scanner stores it, and its annotation."
    image, label = make_phantom((3, number), SHAPE, SPACING)
    return (400 + 100 * image).astype(np.float32), label


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


def table(folder):
    "Rows of predictions.csv by ID."
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def three(tmp_path):
    "Three scans in a folder."
    folder = tmp_path / "three"
    for number in range(3):
        save(folder / f"s{number}.nii.gz", grey_values(number)[0])
    return folder


def forgetful(finished, folder, **changes):
    "The finished run with other settings in its checkpoint."
    state = torch.load(finished / "last.pt", weights_only=True)
    folder.mkdir()
    torch.save({**state, "config": {**state["config"], **changes}}, folder / "last.pt")
    return folder


# the place in the patient


@pytest.mark.slow
def test_all_orders_of_axes_give_one_mask_in_the_patient(finished, tmp_path):
    image, label = grey_values(0)
    for code in ORDERS:
        turn = ornt_transform(io_orientation(LPS), axcodes2ornt(code))
        for folder, array in (("scans", image), ("labels", label)):
            turned = nibabel.Nifti1Image(array, LPS).as_reoriented(turn)
            save(tmp_path / folder / f"{code}.nii.gz", turned.dataobj, turned.affine)
    assert len(set(ORDERS)) == 48
    out = tmp_path / "masks"
    options = "--labels", tmp_path / "labels", "--probabilities", "--largest-component"
    said = predict(finished, out, tmp_path / "scans", *options)
    assert said.out.getvalue().count("to the network's LPS") == 47
    rows = table(out)
    reference = nibabel.as_closest_canonical(nibabel.load(out / "LPS_pred.nii.gz"))
    expected = np.asarray(reference.dataobj)
    assert 0 < expected.sum() < expected.size
    for code in ORDERS:
        scan = nibabel.load(tmp_path / "scans" / f"{code}.nii.gz")
        mask = nibabel.load(out / f"{code}_pred.nii.gz")
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
        upright = nibabel.as_closest_canonical(mask)
        np.testing.assert_allclose(upright.affine, reference.affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(upright.dataobj), expected)
        assert float(rows[code]["dice"]) == pytest.approx(float(rows["LPS"]["dice"]))
        assert float(rows[code]["ml"]) == pytest.approx(expected.sum() * 1.25**3 / 1000)
    p = [nibabel.load(out / f"{code}_prob.nii.gz") for code in ("LPS", "PIR")]
    one, other = (np.asarray(nibabel.as_closest_canonical(image).dataobj) for image in p)
    np.testing.assert_array_equal(one, other)


def rotation(generator):
    "A turn by up to 40 degrees about any axis."
    axis = generator.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = generator.uniform(0.2, 0.7)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("seed", range(4))
def test_an_oblique_scan_gives_the_mask_of_the_nearest_order(finished, tmp_path, seed):
    generator = np.random.default_rng(seed)
    image, _ = grey_values(seed)
    tilted = np.eye(4)
    tilted[:3, :3] = rotation(generator)
    save(tmp_path / "scans" / "upright.nii.gz", image)
    order = axcodes2ornt(ORDERS[generator.integers(48)])
    turned = nibabel.Nifti1Image(image, tilted @ LPS)
    turned = turned.as_reoriented(ornt_transform(io_orientation(turned.affine), order))
    save(tmp_path / "scans" / "tilted.nii.gz", turned.dataobj, turned.affine)
    predict(finished, tmp_path / "masks", tmp_path / "scans")
    upright = nibabel.load(tmp_path / "masks" / "upright_pred.nii.gz")
    mask = nibabel.load(tmp_path / "masks" / "tilted_pred.nii.gz")
    np.testing.assert_allclose(mask.affine, turned.affine, atol=1e-3)

    # its voxels, turned back, as voxels of the upright scan
    to_upright = np.linalg.inv(LPS) @ np.linalg.inv(tilted) @ mask.affine
    index = nibabel.affines.apply_affine(to_upright, np.argwhere(np.asarray(mask.dataobj)))
    np.testing.assert_allclose(index, np.rint(index), atol=0.02)
    found = np.zeros(SHAPE, np.uint8)
    found[tuple(np.rint(index).astype(int).T)] = 1
    np.testing.assert_array_equal(found, np.asarray(upright.dataobj))


def test_another_voxel_size_is_resampled_there_and_back(finished, tmp_path):
    image, _ = grey_values(0)
    coarse = image.reshape(20, 2, 18, 2, 16, 2).mean((1, 3, 5))
    affine = LPS @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] = nibabel.affines.apply_affine(LPS, (0.5, 0.5, 0.5))
    fine, blocks = (
        save(tmp_path / "fine.nii.gz", image),
        save(tmp_path / "coarse.nii.gz", coarse, affine),
    )
    said = predict(finished, tmp_path / "masks", fine, blocks)
    lines = said.out.getvalue().splitlines()
    assert "resampled" not in lines[0]
    assert "resampled from 2.5 x 2.5 x 2.5 mm to 1.25 x 1.25 x 1.25 mm" in lines[1]
    mask = nibabel.load(tmp_path / "masks" / "coarse_pred.nii.gz")
    assert mask.shape == (20, 18, 16)
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    ml = [float(row["ml"]) for row in table(tmp_path / "masks").values()]
    assert ml[1] == pytest.approx(np.asarray(mask.dataobj).sum() * 2.5**3 / 1000)
    assert ml[1] == pytest.approx(ml[0], rel=0.25)  # the same patient, seen less sharply


def test_what_the_checkpoint_does_not_know_is_said_once(finished, tmp_path):
    old = forgetful(finished, tmp_path / "old", orientation=None, spacing=None)
    image, _ = grey_values(0)
    save(tmp_path / "scans" / "a.nii.gz", image)
    for name in ("b", "c"):
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(image, LPS))
        save(tmp_path / "scans" / f"{name}.nii.gz", turned.dataobj, turned.affine)
    said = predict(old, tmp_path / "masks", tmp_path / "scans")
    order = [line for line in said.errors if "order the axes" in line]
    size = [line for line in said.errors if "voxel size" in line]
    assert len(order) == len(size) == 1
    assert "b is stored in RAS (the published scans: LPS)" in order[0]
    known = predict(finished, tmp_path / "known", tmp_path / "scans")
    assert not known.errors


def test_two_classes_are_decided_as_ever(finished, scans, tmp_path):
    "mask = mean over the mirrors of p1 - p0 is above 0; no step in between rounds otherwise."
    model, config = load_model(finished, "cpu")
    path = scans / "phantom_004" / "mri_norm2.h5"
    image = torch.from_numpy(read_h5(path).image)
    total = 0.0
    for axes in ((), (0,), (1,)):
        p = sliding_window(model, image.flip(axes), config.patch, config.stride)
        total += (p[1] - p[0]).flip(axes)
    margin = (total / 3).numpy()
    predict(finished, tmp_path / "masks", path, "--tta", "--probabilities")
    mask = voxels(tmp_path / "masks" / "phantom_004_pred.nii.gz")
    np.testing.assert_array_equal(mask, margin > 0)
    probability = voxels(tmp_path / "masks" / "phantom_004_prob.nii.gz")
    np.testing.assert_array_equal(probability, np.clip((1 + margin) / 2, 0, 1))


def header_of(path):
    "Affines, codes and units of a NIfTI file."
    header = nibabel.load(path).header
    forms = header.get_qform(), header.get_sform()
    codes = int(header["qform_code"]), int(header["sform_code"])
    return (*forms, nibabel.load(path).affine), (codes, header.get_xyzt_units()[0])


def test_a_mask_has_its_scans_own_header(finished, tmp_path):
    image, _ = grey_values(0)
    moved = LPS.copy()
    moved[:3, 3] = (10, 20, -30)
    cases = {"moved": (LPS, 1, moved, 2), "none": (LPS, 0, LPS, 0), "one": (LPS, 1, LPS, 0)}
    for name, (qform, qcode, sform, scode) in cases.items():
        scan = nibabel.Nifti1Image(image, sform)
        scan.header.set_xyzt_units("mm")
        scan.set_sform(sform, scode)
        scan.set_qform(qform, qcode)
        (tmp_path / "scans").mkdir(exist_ok=True)
        nibabel.save(scan, tmp_path / "scans" / f"{name}.nii.gz")
    out = tmp_path / "masks"
    said = predict(finished, out, tmp_path / "scans", "--probabilities")
    for name in cases:
        affines, codes = header_of(tmp_path / "scans" / f"{name}.nii.gz")
        for kind in ("pred", "prob"):
            written, written_codes = header_of(out / f"{name}_{kind}.nii.gz")
            assert written_codes == codes
            for one, other in zip(written, affines):
                np.testing.assert_allclose(one, other, atol=1e-4)
    (line,) = [line for line in said.out.getvalue().splitlines() if line.startswith("moved")]
    assert "qform" in line and "sform" in line


def write_slices(folder, array, first):
    "A DICOM series of an array (X, Y, Z): transverse slices, x to the left, y to the back."
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(array.shape[2]):
        piece = SimpleITK.GetImageFromArray(np.ascontiguousarray(array[:, :, z].T))
        piece.SetSpacing(SPACING[:2])
        tags = {
            "0008|0060": "MR",
            "0020|000e": f"1.2.826.0.1.{first}",
            "0020|0013": str(z + 1),
            "0020|0032": f"-12.5\\30.0\\{7.5 + SPACING[2] * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": str(SPACING[2]),
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{first}_{z:03d}.dcm"))
        writer.Execute(piece)


def test_folders_of_dicom_slices(finished, tmp_path):
    image, _ = grey_values(0)
    stored = np.rint(image).astype(np.int16)
    write_slices(tmp_path / "series" / "P1", stored, 1)
    write_slices(tmp_path / "series" / "P2", stored[::-1], 2)
    save(tmp_path / "nifti.nii.gz", stored)
    predict(finished, tmp_path / "all", tmp_path / "series")
    predict(finished, tmp_path / "one", tmp_path / "series" / "P1", tmp_path / "nifti.nii.gz")
    assert list(table(tmp_path / "all")) == ["P1", "P2"]
    rows = table(tmp_path / "one")
    assert list(rows) == ["nifti", "P1"] and rows["P1"]["voxels"] == rows["nifti"]["voxels"]
    mask, same = (nibabel.load(tmp_path / "one" / f"{name}_pred.nii.gz") for name in rows)
    one, other = (nibabel.as_closest_canonical(image) for image in (mask, same))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)


def test_a_checkpoint_is_read_once(finished, scans, tmp_path, monkeypatch):
    read, load = [], checkpoint_module.load_checkpoint
    monkeypatch.setattr(
        checkpoint_module, "load_checkpoint", lambda path: read.append(path) or load(path)
    )
    predict(finished, tmp_path / "masks", scans / "phantom_004" / "mri_norm2.h5")
    assert read == [finished / "last.pt"]
    options = "--checkpoint", finished, "--data", scans
    run("evaluate", *options, "--out", tmp_path / "scores.json")
    run("export", *options[:2], "--out", tmp_path / "exported")
    assert read == [finished / "last.pt"] * 3


# repeated calls


def test_a_bad_scan_costs_itself_alone_and_the_command_goes_on(finished, three, tmp_path):
    whole = (three / "s1.nii.gz").read_bytes()
    (three / "s1.nii.gz").write_bytes(whole[:4000])
    out = tmp_path / "masks"
    said = predict(finished, out, three, code=2)
    assert list(table(out)) == ["s0", "s2"]
    (line,) = said.errors
    assert "refused: s1" in line and "s1.nii.gz" in line
    (three / "s1.nii.gz").write_bytes(whole)
    before = (out / "s0_pred.nii.gz").stat().st_mtime_ns
    said = predict(finished, out, three)
    assert "2 scans done before" in said.out.getvalue() and "s1: " in said.out.getvalue()
    assert list(table(out)) == ["s0", "s2", "s1"]
    assert (out / "s0_pred.nii.gz").stat().st_mtime_ns == before
    predict(finished, out, three, "--overwrite")
    assert (out / "s0_pred.nii.gz").stat().st_mtime_ns != before


def test_rows_of_earlier_calls_stay(finished, three, tmp_path):
    out = tmp_path / "masks"
    for name in ("s0", "s2"):
        predict(finished, out, three / f"{name}.nii.gz")
    assert list(table(out)) == ["s0", "s2"]
    old = "id,voxels,ml,dice,jaccard,asd,hd95\nbefore,9,0.1,0.5,0.4,2.0,3.0\n"
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "predictions.csv").write_text(old)
    predict(finished, tmp_path / "older", three / "s0.nii.gz")
    rows = table(tmp_path / "older")
    assert list(rows) == ["before", "s0"] and rows["before"]["hd95_voxel"] == "3.0"


def test_a_corrected_scan_or_label_is_done_again(finished, three, tmp_path):
    out, labels = tmp_path / "masks", tmp_path / "labels"
    image, label = grey_values(0)
    save(labels / "s0.nii.gz", label)
    call = (finished, out, three / "s0.nii.gz", "--labels", labels)
    predict(*call)
    first = table(out)["s0"]
    save(labels / "s0.nii.gz", np.roll(label, 2, 0))
    assert "done again" in predict(*call).out.getvalue()
    second = table(out)["s0"]
    assert second["dice"] != first["dice"] and second["voxels"] == first["voxels"]
    save(three / "s0.nii.gz", image[::-1])
    predict(*call)
    assert table(out)["s0"]["voxels"] != first["voxels"]
    assert table(out)["s0"]["voxels"] == str((voxels(out / "s0_pred.nii.gz") > 0).sum())
    assert "1 scan done before" in predict(*call).out.getvalue()
    predict(*call, "--surface")  # more is wanted: done again, and the surface is there
    assert (out / "s0_pred.stl").exists()


def test_masks_of_two_networks_do_not_mix(finished, three, tmp_path):
    out = tmp_path / "masks"
    predict(finished, out, three / "s0.nii.gz")
    other = forgetful(finished, tmp_path / "other", seed=1)
    for checkpoint, more, says in (
        (other, (), "made with another checkpoint"),
        (finished, ("--weights", "teacher"), "made with another --weights"),
        (finished, ("--largest-component",), "made with another --largest-component"),
        (finished, ("--stride", "16", "16", "8"), "made with another --stride"),
    ):
        before = (out / "predictions.csv").read_bytes()
        (line,) = predict(checkpoint, out, three, *more, code=2).errors
        assert says in line and "--overwrite" in line
        assert (out / "predictions.csv").read_bytes() == before
        assert not (out / "s1_pred.nii.gz").exists()
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    assert "1 scan done before" in predict(moved, out, three / "s0.nii.gz").out.getvalue()


def test_masks_of_a_version_that_noted_no_stride_go_on(finished, three, tmp_path):
    out = tmp_path / "masks"
    printed = predict(finished, out, three / "s0.nii.gz").out.getvalue()
    assert "from windows of 32 x 32 x 16 voxels, stride 32 32 16" in printed
    note = json.loads((out / "predict.json").read_text())
    assert note["scans"]["s0"]["model"].pop("--stride") == [32, 32, 16]
    (out / "predict.json").write_text(json.dumps(note))
    assert "1 scan done before" in predict(finished, out, three / "s0.nii.gz").out.getvalue()
    (line,) = predict(finished, out, "--stride", 8, 8, 8, three / "s0.nii.gz", code=2).errors
    assert "made with another --stride" in line


def test_several_scans_and_mirrors_at_another_stride(finished, three, tmp_path):
    "Every mask is that of its scan alone."
    options = "--stride", 16, 24, 8, "--tta"
    predict(finished, tmp_path / "all", *options, three)
    for number in range(3):
        name = f"s{number}_pred.nii.gz"
        predict(finished, tmp_path / "one", *options, three / f"s{number}.nii.gz")
        np.testing.assert_array_equal(
            voxels(tmp_path / "one" / name), voxels(tmp_path / "all" / name)
        )


class Killed(BaseException):
    "Stands for a signal that nothing survives."


@pytest.mark.parametrize("at", range(4))
def test_killed_between_any_two_files_it_goes_on(finished, three, tmp_path, monkeypatch, at):
    whole, out = tmp_path / "whole", tmp_path / "masks"
    options = three, "--probabilities"
    predict(finished, whole, *options)
    count = itertools.count()

    def interrupted(write):
        def maybe_write(*arguments):
            if next(count) == at:
                raise Killed
            write(*arguments)

        return maybe_write

    for name in ("write_image_like", "write_mask"):  # a probability, then the mask
        monkeypatch.setattr(module, name, interrupted(getattr(module, name)))
    # a process that is killed takes nothing back
    monkeypatch.setattr(module.PredictionTable, "drop", lambda *_: None)
    with pytest.raises(Killed):
        predict(finished, out, *options)
    monkeypatch.undo()
    said = predict(finished, out, *options)
    assert len([line for line in said.out.getvalue().splitlines() if " ml" in line]) == 3 - at // 2
    assert table(out) == table(whole)
    for path in whole.glob("*.nii.gz"):
        np.testing.assert_array_equal(voxels(out / path.name), voxels(path))


def test_files_of_others_stay(finished, three, tmp_path):
    out = tmp_path / "masks"
    out.mkdir()
    (out / "s2_pred.nii.gz").write_bytes(b"drawn by hand")
    (line,) = predict(finished, out, three, code=2).errors
    assert "s2_pred.nii.gz: is there already" in line and "--overwrite" in line
    assert [path.name for path in out.iterdir()] == ["s2_pred.nii.gz"]
    for name, content in (("predictions.csv", "name,age\nP1,61\n"), ("predict.json", "{}")):
        other = tmp_path / name.split(".")[1]
        other.mkdir()
        (other / name).write_text(content)
        (line,) = predict(finished, other, three, "--overwrite", code=2).errors
        assert name in line and "choose another --out" in line
        assert (other / name).read_text() == content
        assert len(list(other.iterdir())) == 1


def test_everything_is_looked_at_before_the_first_scan(finished, three, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a scan was segmented")

    monkeypatch.setattr(module, "segment_scan", never)
    (tmp_path / "notes.txt").write_text("of the first visit")
    (tmp_path / "a file").write_text("")
    out = tmp_path / "masks"
    for options, says in (
        ((three, tmp_path / "none.nii.gz"), "none.nii.gz: no such file"),
        ((three, tmp_path / "notes.txt"), "notes.txt: scans end in"),
        ((three / "*.mhx",), "no scan fits this pattern"),
        ((), "no scan given"),
        ((three, "--labels", tmp_path / "nowhere"), "--labels takes a folder"),
        ((three, "--weights", "nobody"), "weights"),
        ((three / "s0.nii.gz", three, tmp_path / "three" / ".." / "three"), None),
    ):
        if says is None:  # one scan named in three ways is one scan
            with pytest.raises(AssertionError, match="segmented"):
                predict(finished, out, *options)
            continue
        (line,) = predict(finished, out, *options, code=2).errors
        assert says in line
        assert not out.exists()
    (line,) = predict(finished, tmp_path / "a file", three, code=2).errors
    assert "a file" in line
    (line,) = predict(tmp_path / "no run", out, three, code=2).errors
    assert "no run: no such checkpoint" in line and not out.exists()


# folders


def test_folders_and_patterns_as_people_keep_them(finished, scans, tmp_path):
    image, label = grey_values(0)
    raw = tmp_path / "raw"
    for number in range(2):
        save(raw / "imagesTr" / f"la_{number:03d}_0000.nii.gz", image)
        save(raw / "labelsTr" / f"la_{number:03d}.nii.gz", label)
        save(raw / "flat" / f"p{number}.nii.gz", image)
        save(raw / "flat" / f"p{number}_seg.nii.gz", label)
    for name, given in (
        ("folder", raw / "imagesTr"),
        ("pattern", raw / "imagesTr" / "*.nii.gz"),
        ("one", raw / "imagesTr" / "la_00?_0000.nii.gz"),
    ):
        predict(finished, tmp_path / name, given, "--labels", raw / "labelsTr")
        rows = table(tmp_path / name)
        assert list(rows) == ["la_000", "la_001"]
        assert all(float(row["dice"]) >= 0 for row in rows.values())
    predict(finished, tmp_path / "flat", raw / "flat")
    assert list(table(tmp_path / "flat")) == ["p0", "p1"]
    predict(finished, tmp_path / "set", scans)
    assert list(table(tmp_path / "set")) == [f"phantom_{number:03d}" for number in range(6)]
    said = predict(finished, tmp_path / "none", raw / "flat", "--labels", raw / "labelsTr")
    assert "no label in" in said.errors[0] and "p0, p1" in said.errors[0]


def test_a_link_keeps_its_name(finished, scans, tmp_path):
    for number in range(2):
        store = tmp_path / "store" / f"MD5E-{number}.h5"
        store.parent.mkdir(exist_ok=True)
        shutil.copy(scans / f"phantom_00{number}" / "mri_norm2.h5", store)
        link = tmp_path / "linked" / f"c{number}" / "mri_norm2.h5"
        link.parent.mkdir(parents=True)
        link.symlink_to(store)
    out = tmp_path / "masks"
    predict(finished, out, tmp_path / "linked", tmp_path / "linked" / "c0" / "mri_norm2.h5")
    assert list(table(out)) == ["c0", "c1"]


def test_a_label_elsewhere_costs_the_scores_and_one_in_another_order_does_not(
    finished, three, tmp_path
):
    labels = tmp_path / "labels"
    for number in range(3):
        label = grey_values(number)[1]
        affine = LPS.copy()
        affine[0, 3] += 20 * (number == 1)  # beside the heart
        stored = nibabel.Nifti1Image(label, affine)
        if number == 2:
            stored = nibabel.as_closest_canonical(stored)
        save(labels / f"s{number}.nii.gz", stored.dataobj, stored.affine)
    said = predict(finished, tmp_path / "masks", three, "--labels", labels, code=2)
    (line,) = said.errors
    assert "annotation refused: s1" in line and "does not lie on s1" in line
    assert list(table(tmp_path / "masks")) == ["s0", "s1", "s2"]  # a mask without scores
    assert table(tmp_path / "masks")["s1"]["dice"] == ""
    save(labels / "s2.nii.gz", grey_values(2)[1])
    rows = table(tmp_path / "masks")
    predict(finished, tmp_path / "upright", three / "s2.nii.gz", "--labels", labels)
    assert rows["s2"]["dice"] == table(tmp_path / "upright")["s2"]["dice"]


# several classes and channels

CLASSES, VALUES = ("body", "veins", "aorta"), (2, 7, 420)


@pytest.fixture(scope="module")
def parts(finished, tmp_path_factory):
    "A network of four classes and two channels with weights that nobody trained, as a run."
    _, config = load_model(finished, "cpu")
    out = tmp_path_factory.mktemp("runs") / "parts"
    several = {"classes": CLASSES, "label_values": VALUES, "channels": ("t1", "lge")}
    trainer = Trainer(dataclasses.replace(config, out=out, base_channels=4, **several))
    network, patch = trainer.student.eval(), torch.randn(1, 2, *config.patch)
    with torch.no_grad():  # every class wins somewhere
        network.classifier.weight.mul_(20)
        network.classifier.bias.sub_(network(patch).mean((0, 2, 3, 4)))
    save_checkpoint(out / "last.pt", trainer, 1)
    return out


def two_channels(folder, code="LPS"):
    "Two scans of two channels as nnU-Net stores them, in an order of axes."
    turn = ornt_transform(io_orientation(LPS), axcodes2ornt(code))
    for number, channel in itertools.product(range(2), range(2)):
        array = grey_values(2 * number + channel)[0]
        turned = nibabel.Nifti1Image(array, LPS).as_reoriented(turn)
        name = f"p{number}_{channel:04d}.nii.gz"
        save(folder / name, turned.dataobj, turned.affine)
    return folder


def z_scored(arrays):
    "Every channel with mean 0 and deviation 1, computed in double precision."
    channels = [array.astype(np.float64) for array in arrays]
    channels = [(channel - channel.mean()) / channel.std() for channel in channels]
    return np.stack(channels).astype(np.float32)


def slow_classes(checkpoint, arrays):
    "Argmax of the windows' mean probabilities; each channel z-scored by itself."
    model, config = load_model(checkpoint, "cpu")
    p = sliding_window(model, z_scored(arrays), config.patch, config.stride)
    return p.numpy(), p.argmax(0).numpy()


def test_several_classes_and_channels(parts, tmp_path):
    scans, out = two_channels(tmp_path / "scans"), tmp_path / "masks"
    predict(parts, out, scans, "--probabilities", "--surface")
    p, classes = slow_classes(parts, [grey_values(number)[0] for number in (2, 3)])
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    stored = voxels(out / "p1_pred.nii.gz")
    assert stored.dtype == np.uint16
    assert (stored == np.array([0, *VALUES])[classes]).mean() > 0.9999
    classes = np.searchsorted((0, *VALUES), stored)
    row = table(out)["p1"]
    for number, name in enumerate(CLASSES, 1):
        probability = voxels(out / f"p1_{name}_prob.nii.gz")
        np.testing.assert_allclose(probability, p[number], atol=1e-5)
        count = int((classes == number).sum())
        assert row[f"{name}_voxels"] == str(count)
        assert float(row[f"{name}_ml"]) == pytest.approx(count * 1.25**3 / 1000)
        assert f"class {name} in mm".encode() in (out / f"p1_{name}_pred.stl").read_bytes()[:80]
    assert row["voxels"] == str((classes > 0).sum())
    assert len(list(out.iterdir())) == 2 * (1 + 3 + 3) + 2


def test_several_classes_in_another_order_and_size(parts, tmp_path):
    for code in ("LPS", "SAR"):
        predict(parts, tmp_path / code, two_channels(tmp_path / f"scans_{code}", code))
    for name in ("p0", "p1"):
        pair = [nibabel.load(tmp_path / code / f"{name}_pred.nii.gz") for code in ("LPS", "SAR")]
        one, other = (np.asarray(nibabel.as_closest_canonical(mask).dataobj) for mask in pair)
        np.testing.assert_array_equal(one, other)
    known = forgetful(parts, tmp_path / "half", spacing=(2.5, 2.5, 2.5))
    predict(known, tmp_path / "coarse", tmp_path / "scans_LPS")
    values = np.unique(voxels(tmp_path / "coarse" / "p0_pred.nii.gz"))
    assert set(values) <= {0, *VALUES}


def test_labels_of_several_classes_are_scored_by_class(parts, tmp_path):
    scans, labels = two_channels(tmp_path / "scans"), tmp_path / "labels"
    predict(parts, tmp_path / "first", scans)
    mask = voxels(tmp_path / "first" / "p0_pred.nii.gz")
    save(labels / "p0.nii.gz", np.where(mask == 420, 0, mask))
    save(labels / "p1.nii.gz", np.full(SHAPE, 5, np.uint8))
    said = predict(parts, tmp_path / "masks", scans, "--labels", labels, code=2)
    assert "refused: p1" in said.errors[-1] and "label values 5" in said.errors[-1]
    assert (tmp_path / "masks" / "p1_pred.nii.gz").exists()
    row = table(tmp_path / "masks")["p0"]
    assert [float(row[f"{name}_dice"]) for name in CLASSES] == [1, 1, 0]
    assert float(row["dice"]) == pytest.approx(2 / 3)
    assert float(row["veins_hd95_mm"]) == 0 < float(row["aorta_hd95_mm"])


def test_another_number_of_channels_is_refused_by_name(parts, finished, tmp_path):
    scans = two_channels(tmp_path / "imagesTs")
    save(scans / "p2_0000.nii.gz", grey_values(0)[0])
    said = predict(parts, tmp_path / "masks", scans, code=2)
    assert list(table(tmp_path / "masks")) == ["p0", "p1"]
    (line,) = said.errors
    assert "p2: 1 channel, but the network takes 2 (t1, lge)" in line
    assert "NAME_0000.nii.gz NAME_0001.nii.gz" in line
    said = predict(finished, tmp_path / "one", scans, code=2)
    assert "p0: 2 channels, but the network takes 1 (image)" in said.errors[0]
    assert list(table(tmp_path / "one")) == ["p2"]
    moved = LPS.copy()
    moved[2, 3] += 40
    save(scans / "p0_0001.nii.gz", grey_values(1)[0], moved)
    said = predict(parts, tmp_path / "moved", scans, code=2)
    assert "p0_0001.nii.gz: does not lie on p0_0000.nii.gz" in said.errors[0]


def test_a_prepared_file_of_two_channels(parts, tmp_path):
    scans = two_channels(tmp_path / "scans")
    predict(parts, tmp_path / "nifti", scans)
    image = z_scored(grey_values(number)[0] for number in range(2))
    label = np.zeros(SHAPE, np.uint8)
    label[10:20], label[20:30] = 1, 3  # class numbers, as the set has them
    write_h5(tmp_path / "set" / "p0" / "mri_norm2.h5", Volume(image, label, SPACING))
    predict(parts, tmp_path / "h5", tmp_path / "set")
    of_h5 = voxels(tmp_path / "h5" / "p0_pred.nii.gz")
    same = of_h5 == voxels(tmp_path / "nifti" / "p0_pred.nii.gz")
    assert same.mean() > 0.9999  # a voxel where two classes are level may go either way
    assert 0 <= float(table(tmp_path / "h5")["p0"]["aorta_dice"]) <= 1


def test_an_exported_network_of_several_classes_gives_the_same_masks(parts, tmp_path):
    scans = two_channels(tmp_path / "scans")
    run("export", "--checkpoint", parts, "--out", tmp_path / "model", "--onnx")
    forms = {"run": parts, "folder": tmp_path / "model", "graph": tmp_path / "model" / "model.onnx"}
    p = {}
    for name, checkpoint in forms.items():
        predict(checkpoint, tmp_path / name, scans, "--probabilities")
        p[name] = [voxels(tmp_path / name / f"p0_{of}_prob.nii.gz") for of in CLASSES]
    np.testing.assert_array_equal(p["run"], p["folder"])
    np.testing.assert_allclose(p["run"], p["graph"], atol=2e-3)
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    assert about["classes"] == ["background", *CLASSES] and about["channels"] == ["t1", "lge"]
    assert about["label_values"] == [0, *VALUES] and about["spacing"] == [1.25] * 3


# exported models


def test_run_folder_checkpoint_and_exported_folder_are_one_network(finished, three, tmp_path):
    model = tmp_path / "model"
    run("export", "--checkpoint", finished, "--out", model)
    forms = {"run": finished, "file": finished / "last.pt", "model": model}
    masks = []
    for name, checkpoint in forms.items():
        predict(checkpoint, tmp_path / name / "masks", three / "s0.nii.gz")
        masks.append(voxels(tmp_path / name / "masks" / "s0_pred.nii.gz"))
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    (line,) = predict(model, tmp_path / "t", three, "--weights", "teacher", code=2).errors
    assert "holds the weights of the student only" in line
    (line,) = predict(three, tmp_path / "t", three, code=2).errors
    assert "holds no last.pt, model.safetensors, model.onnx" in line
    assert not (tmp_path / "t").exists()


def test_export_leaves_files_of_others_alone(finished, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my project")
    for out in (mine, finished):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        said = run("export", "--checkpoint", finished, "--out", out, "--overwrite", code=2)
        assert "not an exported model's" in said.errors[0]
        assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    model = tmp_path / "model"
    run("export", "--checkpoint", finished, "--out", model)
    said = run("export", "--checkpoint", finished, "--out", model, code=2)
    assert "--overwrite" in said.errors[0]
    run("export", "--checkpoint", model, "--out", tmp_path / "again")
    one, two = (json.loads((f / "config.json").read_text()) for f in (model, tmp_path / "again"))
    assert one["scores"] == two["scores"] and one["scores"]["count"] == 2
    card = (tmp_path / "again" / "README.md").read_text()
    assert "Axes run as LPS says" in card and "1.25 x 1.25 x 1.25 mm" in card
