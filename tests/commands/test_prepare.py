"""`prepare` and `check` with folders as people keep them, and with what goes wrong in them."""

import itertools
import json
import warnings
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers import run

from lgermt.data.datasets import read_dataset_info
from lgermt.data.io import read_h5, read_scan
from lgermt.data.volume import Volume, normalize, orientation_code, reorient
from lgermt.prepare import Preparation, transform_case

SHAPE = (26, 22, 18)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def scan(number, spacing=(1.25, 1.25, 2.0)):
    "Noise with a bright box that is not in the middle; LPS."
    generator = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    label[5:12, 8:16, 4:13] = 1
    image = np.round(300 + 40 * (generator.normal(size=SHAPE) + 3 * label))
    return Volume(image.astype(np.float32), label, spacing, (9.0 + number, -5.0, 3.0), LPS)


def write(path, array, like):
    "An image as other programs write it."
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(like.spacing)
    image.SetOrigin(like.origin)
    image.SetDirection(like.direction)
    sitk.WriteImage(image, str(path), True)


def write_table(folder, count=3, first=0, labels=True, separator=","):
    "Images, labels and a table of them."
    rows = ["id,image,label"]
    for number in range(count):
        volume = scan(first + number)
        write(folder / f"im{number}.nii.gz", volume.image, volume)
        write(folder / f"lb{number}.nii.gz", volume.label, volume)
        rows.append(f"case{number},im{number}.nii.gz,{f'lb{number}.nii.gz' if labels else ''}")
    table = folder / "scans.csv"
    table.write_text("\n".join(rows).replace(",", separator) + "\n")
    return table


def prepare(source, out, *more, code=0):
    return run("prepare", source, "--out", out, "--workers", 1, *more, code=code)


def prepared(out, case):
    return read_h5(out / case / "mri_norm2.h5")


def read_list(out, name="train.list"):
    return (out / name).read_text().split()


def assert_is(volume, number, label=True):
    "The prepared scan is that of the number, normalised."
    expected = scan(number)
    np.testing.assert_allclose(volume.image, normalize(expected.image), atol=1e-4)
    np.testing.assert_allclose(volume.origin, expected.origin, atol=1e-4)
    if label:
        np.testing.assert_array_equal(volume.label, expected.label)


# ---------------------------------------------------------------- folders as people keep them


def nnunet_1(folder):
    listed = []
    for number in range(3):
        name, volume = f"la_{number:03d}", scan(number)
        write(folder / "imagesTr" / f"{name}_0000.nii.gz", volume.image, volume)
        write(folder / "labelsTr" / f"{name}.nii.gz", volume.label, volume)
        listed.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    content = {"modality": {"0": "MRI"}, "training": listed, "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    return [f"la_{number:03d}" for number in range(3)]


def nnunet_2(folder):
    names = nnunet_1(folder)
    labels = {"background": 0, "atrium": 1}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    return names


def nnunet_without_json(folder):
    names = nnunet_1(folder)
    (folder / "dataset.json").unlink()
    return names


def flat(folder):
    for number, ending in enumerate(("_seg", "-label", "_GT")):
        volume = scan(number)
        write(folder / f"pat{number}.nii.gz", volume.image, volume)
        write(folder / f"pat{number}{ending}.nrrd", volume.label, volume)
    return ["pat0", "pat1", "pat2"]


def folder_per_patient(folder):
    for number, label in enumerate(("mask", "image_seg", "segmentation")):
        volume = scan(number)
        write(folder / f"P{number}" / "image.nii.gz", volume.image, volume)
        write(folder / f"P{number}" / f"{label}.nii.gz", volume.label, volume)
    return ["P0", "P1", "P2"]


def linked_challenge(folder):
    "Every file is a link into a store; beside the scans lies a table of patients."
    for number in range(3):
        volume = scan(number)
        for kind, array in (("lgemri", volume.image), ("laendo", volume.label * np.uint8(255))):
            stored = folder.parent / "store" / f"MD5E-{kind}{number}.nrrd"
            write(stored, array, volume)
            link = folder / f"P{number}" / f"{kind}.nrrd"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(stored)
    (folder / "patients.csv").write_text("patient,age\nP0,61\n")
    return ["P0", "P1", "P2"]


def table_of_a_spreadsheet(folder):
    table = write_table(folder, separator=";")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n\r\n"))
    return ["case0", "case1", "case2"]


def table_with_tabs(folder):
    write_table(folder, separator="\t")
    (folder / "boxes.csv").write_text("id,x0\n")
    return ["case0", "case1", "case2"]


LAYOUTS = [
    nnunet_1,
    nnunet_2,
    nnunet_without_json,
    flat,
    folder_per_patient,
    linked_challenge,
    table_of_a_spreadsheet,
    table_with_tabs,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_folder_is_read_as_it_is(tmp_path, layout):
    names = layout(tmp_path / "source")
    said = prepare(tmp_path / "source", tmp_path / "out")
    assert sorted(read_list(tmp_path / "out")) == names
    for number, name in enumerate(names):
        assert_is(prepared(tmp_path / "out", name), number)
    assert f"--data {tmp_path / 'out'} --labeled 3 --method vnet --out" in said.out.getvalue()
    info = read_dataset_info(tmp_path / "out")
    assert info.classes == ("atrium",) and info.orientation == "LPS"
    np.testing.assert_allclose(info.spacing, (1.25, 1.25, 2.0), rtol=1e-6)


def write_dicom(folder, volume):
    "A folder with a file per slice."
    folder.mkdir(parents=True)
    image = sitk.GetImageFromArray(volume.image.astype(np.int16).transpose(2, 1, 0).copy())
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(image.GetDepth()):
        plane = image[:, :, number]
        place = image.TransformIndexToPhysicalPoint((0, 0, number))
        tags = {
            "0008|0008": "DERIVED\\SECONDARY",
            "0008|0060": "MR",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1.2",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1.1",
            "0020|0013": str(number),
            "0020|0032": "\\".join(map(str, place)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(plane)


def test_formats_may_be_mixed(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    endings = [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"]
    for number, ending in enumerate(endings):
        volume = scan(number)
        write(source / f"p{number}{ending}", volume.image.astype(np.int16), volume)
        write(source / f"p{number}_seg{ending}", volume.label, volume)
    volume = scan(len(endings))
    write_dicom(source / "p5", volume)
    write(source / "p5_seg.nii.gz", volume.label, volume)
    said = prepare(source, out).out.getvalue()
    for number in range(6):
        assert_is(prepared(out, f"p{number}"), number)
    assert "of 18 slices (1 scan: p5)" in said
    write(source / "p1_seg.mhd", scan(1).label[::-1], scan(1))  # its voxels are in p1_seg.zraw
    said = prepare(source, out).out.getvalue()
    assert "they changed: p1 (label)" in said and "5 scans were there already" in said
    np.testing.assert_array_equal(prepared(out, "p1").label, scan(1).label[::-1])


def test_headers_that_contradict_themselves_are_counted(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(3):
        volume = scan(number)
        for name, array in (("", volume.image), ("_seg", volume.label)):
            path = source / f"p{number}{name}.nii.gz"
            write(path, array, volume)
            if number:
                stored = nibabel.load(path)
                shifted = stored.affine.copy()
                shifted[0, 3] += 30
                spoilt = nibabel.Nifti1Image(np.asarray(stored.dataobj), stored.affine)
                spoilt.set_sform(stored.affine, 1)
                spoilt.set_qform(shifted, 1)
                nibabel.save(spoilt, path)
    said = prepare(source, out)
    (line,) = [line for line in said.out.getvalue().splitlines() if "qform" in line]
    assert line.endswith("(2 scans: p1, p2)") and "Warning" not in said.err.getvalue()
    checked = run("check", source, "--workers", 1, "--out", tmp_path / "c.html").out.getvalue()
    assert checked.count("qform") == 4  # image and label of two scans


ORDERS = ["LPS", "RAS", "LAS", "RPI", "PSL", "ASR", "SRA", "IPL"]


def test_scans_of_any_orientation_become_one(tmp_path):
    source = tmp_path / "source"
    for number, order in enumerate(ORDERS):
        volume = reorient(scan(number), order)
        other = reorient(scan(number), ORDERS[number - 1])  # a label stored in another order
        write(source / f"p{number}.nii.gz", volume.image, volume)
        write(source / f"p{number}_seg.nii.gz", other.label, other)
        assert orientation_code(read_scan(source / f"p{number}.nii.gz")) == order
    said = prepare(source, tmp_path / "out")
    for number in range(len(ORDERS)):
        assert_is(prepared(tmp_path / "out", f"p{number}"), number)
    assert "axes turned from RAS to LPS (1 scan: p1)" in said.out.getvalue()
    assert read_dataset_info(tmp_path / "out").orientation == "LPS"
    checked = run("check", tmp_path / "out", "--workers", 1, "--out", tmp_path / "c.html")
    assert "axes" not in checked.out.getvalue() and "voxel size" not in checked.out.getvalue()
    checked = run("check", source, "--workers", 1, "--out", tmp_path / "c.html").out.getvalue()
    for order in ORDERS[1:]:
        assert f"! axes {order}, others LPS" in checked


def all_orders():
    "The 48 orders of axes, as nibabel names them."
    orders = []
    for letters in itertools.permutations(("LR", "PA", "SI")):
        orders += ["".join(chosen) for chosen in itertools.product(*letters)]
    return orders


@pytest.mark.parametrize("spacing", [None, (1.5, 1.0, 2.5)])
def test_all_orders_of_axes_give_the_same_scan_and_the_same_box(spacing):
    """The box is given in voxels of each file; where it is resampled to the same size,
    only the last digits may differ."""
    settings = Preparation("source", "out", crop="boxes.csv", spacing=spacing)
    box = ((3, 21), (2, 16), (4, 18))
    marked = np.zeros(SHAPE, np.float32)
    marked[tuple(slice(*side) for side in box)] = 1
    expected = transform_case(scan(0), settings, box)
    assert len(set(all_orders())) == 48
    for order in all_orders():
        stored = reorient(scan(0), order)
        inside = np.argwhere(reorient(replace(scan(0), image=marked), order).image)
        moved = tuple(zip(inside.min(0).tolist(), (inside.max(0) + 1).tolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that the axes were turned
            found = transform_case(stored, settings, moved)
        assert orientation_code(found) == "LPS"
        np.testing.assert_allclose(found.image, expected.image, atol=1e-4)
        np.testing.assert_array_equal(found.label, expected.label)
        for one, other in zip(found.geometry, expected.geometry):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_mixed_voxel_sizes_are_one_line_with_the_remedy(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(6):
        volume = scan(number, spacing=(1.25, 1.25, (2.0, 1.8, 1.6)[number % 3]))
        write(source / f"p{number}.nii.gz", volume.image, volume)
        write(source / f"p{number}_seg.nii.gz", volume.label, volume)
    said = prepare(source, out).out.getvalue()
    (line,) = [line for line in said.splitlines() if "voxel sizes differ" in line]
    assert "1.25 x 1.25 x 1.6-2 mm" in line and "--spacing 1.25 1.25 1.8 --overwrite" in line
    assert read_dataset_info(out).spacing is None
    checked = run("check", out, "--workers", 1).out.getvalue()
    assert checked.count("! voxel size 1.25 1.25 1") == 4
    assert "voxel size of several kinds" in checked
    said = prepare(source, out, "--spacing", 1.25, 1.25, 1.8, "--overwrite").out.getvalue()
    assert "differ" not in said and read_dataset_info(out).spacing == (1.25, 1.25, 1.8)


# ---------------------------------------------------------------- the same command again


def test_a_corrected_label_is_prepared_anew(tmp_path):
    table, out = write_table(tmp_path / "source"), tmp_path / "out"
    prepare(table, out)
    before = {case: (out / case / "mri_norm2.h5").stat().st_mtime_ns for case in read_list(out)}
    volume = scan(0)
    write(table.parent / "lb0.nii.gz", volume.label[::-1], volume)
    said = prepare(table, out).out.getvalue()
    np.testing.assert_array_equal(prepared(out, "case0").label, volume.label[::-1])
    assert "prepared anew, because they changed: case0 (label)" in said
    assert "2 scans were there already and have not changed" in said
    after = {case: (out / case / "mri_norm2.h5").stat().st_mtime_ns for case in read_list(out)}
    assert [case for case in sorted(after) if after[case] != before[case]] == ["case0"]


def test_another_source_with_the_same_ids_replaces_the_scans(tmp_path):
    out = tmp_path / "out"
    prepare(write_table(tmp_path / "a", first=10), out)
    said = prepare(write_table(tmp_path / "b", first=20), out).out.getvalue()
    for number in range(3):
        assert_is(prepared(out, f"case{number}"), 20 + number)
    assert "case0 (image, label), case1 (image, label)" in said


def test_a_label_that_is_added_later_counts(tmp_path):
    table, out = write_table(tmp_path / "source"), tmp_path / "out"
    whole = table.read_text()
    table.write_text(whole.replace("lb1.nii.gz", ""))
    assert "--labeled 2" in prepare(table, out).out.getvalue()
    assert read_list(out)[-1] == "case1" and prepared(out, "case1").label is None
    table.write_text(whole)
    said = prepare(table, out).out.getvalue()
    assert "case1 (label added)" in said and "--labeled 3" in said
    assert_is(prepared(out, "case1"), 1)


def test_scans_of_an_earlier_source_are_named(tmp_path):
    table, out = write_table(tmp_path / "source"), tmp_path / "out"
    prepare(table, out)
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:3]))
    said = prepare(table, out).out.getvalue()
    assert "still there: case2 (case2 in the lists: remove the lines)" in said


def test_lists_made_by_hand_are_kept(tmp_path):
    table, out = write_table(tmp_path / "source", count=5), tmp_path / "out"
    out.mkdir()
    lists = {"train.list": "case3\ncase0\ncase1\n", "test.list": "case2\n", "val.list": "case4\n"}
    for name, text in lists.items():
        (out / name).write_text(text)
    for _ in range(2):
        prepare(table, out)
        assert {name: (out / name).read_text() for name in lists} == lists
        (out / "train.list").write_text("case1\ncase0\ncase3\n")  # edited
        lists["train.list"] = "case1\ncase0\ncase3\n"
    (line,) = prepare(table, out, "--test", 2, code=2).errors
    assert "--test 2" in line and "--redraw-lists" in line
    assert (out / "test.list").read_text() == lists["test.list"]


def test_a_test_scan_stays_a_test_scan(tmp_path):
    table, out = write_table(tmp_path / "source", count=13), tmp_path / "out"
    whole = table.read_text().splitlines(keepends=True)
    table.write_text("".join(whole[:-1]))
    prepare(table, out, "--test", 3)
    train, test = read_list(out), read_list(out, "test.list")
    table.write_text("".join(whole))
    said = prepare(table, out, "--test", 3).out.getvalue()
    assert read_list(out, "test.list") == test and read_list(out) == [*train, "case12"]
    assert "new: behind the annotated of train.list: case12" in said
    said = prepare(table, out, "--test", 3, "--redraw-lists").out.getvalue()
    leaked = sorted(set(read_list(out, "test.list")) & {*train, "case12"})
    assert leaked and f"ATTENTION: {len(leaked)} of 3 scans in test.list" in said
    assert (out / "test.list.old").read_text().split() == test


# ---------------------------------------------------------------- mistakes


def test_a_table_of_boxes_names_every_scan(tmp_path):
    table, out = write_table(tmp_path / "source"), tmp_path / "out"
    boxes = tmp_path / "boxes.csv"
    rows = ["id,x0,x1,y0,y1,z0,z1", "case0,2,20,0,22,0,18", "case1,2,20,0,22,0,18"]
    boxes.write_text("\n".join([*rows, "Case2,2,20,0,22,0,18"]) + "\n")
    (line,) = prepare(table, out, "--crop", boxes, code=2).errors
    assert "no box for case2" in line and "Case2, which is no scan" in line
    assert not list(out.glob("*/*.h5"))
    boxes.write_text("\n".join([*rows, "case2,4,20,1,22,0,18", "case9,0,1,0,1,0,1"]) + "\n")
    said = prepare(table, out, "--crop", boxes).out.getvalue()
    assert "it names case9, which is no scan" in said
    np.testing.assert_allclose(
        prepared(out, "case2").image, normalize(scan(2).image)[4:20, 1:22], atol=1e-4
    )


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda volume: volume.label * np.uint8(7), "the label holds the value 7"),
        (lambda volume: volume.label + (volume.label > 0) * (volume.image > 400), "value 2"),
        (lambda volume: volume.label * np.float32(0.37), "p1_seg.nii.gz: "),
        (lambda volume: volume.image, "p1_seg.nii.gz: "),
    ],
    ids=["stray", "stray and usual", "probabilities", "image"],
)
def test_one_bad_label_costs_its_scan_alone(tmp_path, spoil, says):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(4):
        volume = scan(number)
        write(source / f"p{number}.nii.gz", volume.image, volume)
        label = spoil(volume) if number == 1 else volume.label
        write(source / f"p{number}_seg.nii.gz", label, volume)
    (line,) = [line for line in prepare(source, out, code=2).errors if "refused" in line]
    assert "refused: p1: " in line and says in line
    assert sorted(read_list(out)) == ["p0", "p2", "p3"]


@pytest.mark.parametrize(
    "ids, says",
    [
        (("a", "A"), "would both be A, apart from capitals"),
        (("a", "CON"), "'CON' cannot be a folder's name"),
        (("a", "a."), "cannot be a folder's name"),
    ],
)
def test_ids_that_are_one_folder_elsewhere_are_refused(tmp_path, ids, says):
    table = write_table(tmp_path / "source", count=2)
    for number, name in enumerate(ids):
        table.write_text(table.read_text().replace(f"case{number}", name))
    (line,) = prepare(table, tmp_path / "out", code=2).errors
    assert says in line and not (tmp_path / "out").exists()


def test_a_table_says_the_right_line(tmp_path):
    table = write_table(tmp_path / "source")
    table.write_text(table.read_text().replace("case1,im1.nii.gz", "\n\ncase1,"))
    (line,) = prepare(table, tmp_path / "out", code=2).errors
    assert "line 5 has no image" in line


def test_two_tables_of_scans_are_named(tmp_path):
    table = write_table(tmp_path / "source")
    (table.parent / "more.csv").write_text("id,image\na,im0.nii.gz\n")
    (line,) = prepare(table.parent, tmp_path / "out", code=2).errors
    assert "more.csv, scans.csv" in line


def test_a_label_without_an_image_is_refused(tmp_path):
    flat(tmp_path / "source")
    (tmp_path / "source" / "pat0.nii.gz").rename(tmp_path / "source" / "Pat0.nii.gz")
    (line,) = prepare(tmp_path / "source", tmp_path / "out", code=2).errors
    assert "pat0_seg.nrrd: an annotation, but there is no scan pat0" in line


# ---------------------------------------------------------------- classes and channels


def write_parts(folder, number, order="LPS", channels=("0000", "0001")):
    "Two channels and two classes, values 2 and 420; LPS array of the classes."
    volume = scan(number)
    classes = volume.label.astype(np.uint16)
    classes[5:9] *= 2  # class 2
    turned = reorient(Volume(volume.image, classes, *volume.geometry), order)
    for channel, sign in zip(channels, (1, -2)):
        write(folder / "imagesTr" / f"p{number}_{channel}.nii.gz", sign * turned.image, turned)
    values = np.array([0, 2, 420], np.uint16)[turned.label]
    write(folder / "labelsTr" / f"p{number}.nii.gz", values, turned)
    return classes


def test_classes_and_channels_come_from_the_data(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    expected = [write_parts(source, number, ORDERS[number]) for number in range(4)]
    content = {
        "channel_names": {"0": "T1 w", "1": "LGE"},
        "labels": {"background": 0, "body": 2, "veins": 420, "aorta": 7},
    }
    (source / "dataset.json").write_text(json.dumps(content))
    said = prepare(source, out).out.getvalue()
    assert "classes: body (label value 2), veins (label value 420)" in said
    assert "channels: T1_w, LGE" in said
    info = read_dataset_info(out)
    assert info.classes == ("body", "veins") and info.label_values == (2, 420)
    assert info.channels == ("T1_w", "LGE")
    for number, classes in enumerate(expected):
        with h5py.File(out / f"p{number}" / "mri_norm2.h5") as file:
            np.testing.assert_array_equal(file["label"][()], classes)
            image = normalize(scan(number).image)
            np.testing.assert_allclose(file["image"][()], [image, -image], atol=1e-4)
    merged = prepare(source, tmp_path / "merged", "--foreground", 2, 420).out.getvalue()
    assert "classes: atrium (label value 2 and 420)" in merged
    with h5py.File(tmp_path / "merged" / "p0" / "mri_norm2.h5") as file:
        np.testing.assert_array_equal(file["label"][()], scan(0).label)
    names = prepare(source, tmp_path / "named", "--classes", "a=2", "b=420").out.getvalue()
    assert "classes: a (label value 2), b (label value 420)" in names


def test_channels_that_do_not_belong_together_are_refused(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(4):
        write_parts(source, number)
    (source / "imagesTr" / "p1_0001.nii.gz").unlink()
    elsewhere = scan(9)  # 7 mm further to the left than scan 2
    write(source / "imagesTr" / "p2_0001.nii.gz", elsewhere.image, elsewhere)
    refused = prepare(source, out, code=2).errors
    assert any(
        "refused: p1: " in line and "p1_0001.nii.gz: no such file" in line for line in refused
    )
    assert any("refused: p2: " in line and "p2_0001.nii.gz" in line for line in refused)
    assert sorted(read_list(out)) == ["p0", "p3"]


# ---------------------------------------------------------------- check


def spoil_h5(out, case, change):
    "Changes one prepared scan."
    with h5py.File(out / case / "mri_norm2.h5", "r+") as file:
        image, label = file["image"][()], file["label"][()]
        image, label = change(image, label)
        file["image"][...], file["label"][...] = image, label


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda image, label: (40 * image + 300, label), "not normalised: mean 300"),
        (lambda image, label: (image, np.roll(label, 9, 0)), "of the image's side from where"),
        (lambda image, label: (image, np.minimum(label, 1)), "no voxel of the class class_2"),
        (lambda image, label: (image[::-1], label), "the channels fit"),
    ],
    ids=["not normalised", "label elsewhere", "class missing", "channels exchanged"],
)
def test_check_names_the_scan(tmp_path, change, says):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(5):
        write_parts(source, number)
    prepare(source, out)
    sound = run("check", out, "--workers", 1).out.getvalue()
    assert says not in sound
    spoil_h5(out, "p3", change)
    run("check", out, "--workers", 1)
    rows = json.loads((out / "check.json").read_text())["scans"]
    named = [row["id"] for row in rows if any(says in text for text in row["warnings"])]
    assert named == ["p3"]


def test_check_leaves_files_of_others_alone(scans, tmp_path):
    (tmp_path / "theirs.json").write_text("{}")
    for out, says in (("theirs.json", "is a page"), ("theirs.html", "was not made by")):
        (line,) = run("check", scans, "--out", tmp_path / out, code=2).errors
        assert says in line
    assert (tmp_path / "theirs.json").read_text() == "{}"
