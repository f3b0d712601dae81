"""NIfTI headers: nibabel shows a mask where it shows the scan; contradictions are said."""

import warnings

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgermt.data.io import read_scan, write_mask
from lgermt.data.nifti import GEOMETRY_FIELDS
from lgermt.data.volume import orientation_code, voxel_to_world
from lgermt.data.volume_checks import check_volume
from lgermt.utils.errors import InputError

SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)

codes = st.sampled_from((0, 1, 2, 4))
shifts = st.tuples(*[st.floats(-100, 100)] * 3)
spacings = st.tuples(*[st.floats(0.3, 5)] * 3)
angles = st.tuples(*[st.floats(-3, 3)] * 3)
orders = st.permutations(range(3))
signs = st.tuples(*[st.sampled_from((-1, 1))] * 3)


def affine_of(spacing, angles, order, signs, shift):
    "An affine without shear."
    matrix = np.eye(3)[:, order] * signs
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix * spacing, shift
    return affine


affines = st.builds(affine_of, spacings, angles, orders, signs, shifts)


def write_scan(path, affine, q, s, other=None, units="mm", kind=nibabel.Nifti1Image, image=IMAGE):
    "A scan whose qform may differ from its sform."
    header = kind.header_class()
    header.set_data_shape(image.shape)
    header.set_data_dtype(image.dtype)
    header.set_xyzt_units(units)
    header.set_qform(affine if other is None else other, q)
    header.set_sform(affine, s)
    kind(image, None, header).to_filename(path)


def read_and_list(path):
    "The scan, and what was said."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan = read_scan(path)
    return scan, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@given(affine=affines, other=affines, q=codes, s=codes)
def test_nibabel_shows_mask_and_scan_at_one_place(tmp_path, kind, affine, other, q, s):
    path, target = tmp_path / "scan.nii", tmp_path / "mask.nii.gz"
    write_scan(path, affine, q, s, other, kind=kind)
    scan, lines = read_and_list(path)
    write_mask(target, IMAGE > 500, scan)
    shown, mask = nibabel.load(path), nibabel.load(target)
    np.testing.assert_array_equal(mask.affine, shown.affine)
    for name in GEOMETRY_FIELDS:
        np.testing.assert_array_equal(mask.header[name], shown.header[name])
    here = voxel_to_world(scan, (4, 1, 6)) * (-1, -1, 1)
    np.testing.assert_allclose(here, (shown.affine @ (4, 1, 6, 1))[:3], atol=0.01)
    assert orientation_code(scan) == "".join(nibabel.aff2axcodes(shown.affine))
    if q == s == 0:
        assert any("nothing says where the scan lies" in line for line in lines)
    elif q and s and np.abs(affine - other).max() > 5:
        assert any("the sform is used" in line for line in lines)


@given(affine=affines, q=codes, s=codes)
def test_a_header_that_agrees_with_itself_is_read_without_a_word(tmp_path, affine, q, s):
    write_scan(tmp_path / "scan.nii", affine, q, s)
    _, lines = read_and_list(tmp_path / "scan.nii")
    assert len(lines) == (q == s == 0)


@given(affine=affines, units=st.sampled_from((("meter", 1000), ("micron", 0.001), ("mm", 1))))
def test_lengths_are_millimetres(tmp_path, affine, units):
    name, factor = units
    write_scan(tmp_path / "scan.nii", affine, 1, 1, units=name)
    scan, lines = read_and_list(tmp_path / "scan.nii")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(scan.spacing, factor * sizes, rtol=1e-4)
    assert len(lines) == (name != "mm")
    assert all(line.endswith(f"lengths are in {name}; they are converted to mm") for line in lines)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, bad, suffix):
    image = IMAGE.astype(np.float32)
    image[1, 2, 3] = bad
    write_scan(tmp_path / f"scan{suffix}", np.eye(4), 1, 1, image=image)
    with pytest.raises(InputError, match="scan: 1 NaN or infinite voxels, the first at .1, 2, 3."):
        check_volume(read_scan(tmp_path / f"scan{suffix}"), labeled=False)


@pytest.mark.parametrize("slope, offset", [(1, 0), (0, 0), (np.nan, 0), (2.0, -3.0)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_scaled_integers_of_any_byte_order(tmp_path, slope, offset, order):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([1.0, 2.0, 3.0, 1.0]), 1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, offset, 352
    header["magic"] = b"n+1"
    stored = IMAGE.astype(f"{order}i2").tobytes("F")
    (tmp_path / "scan.nii").write_bytes(header.binaryblock + bytes(4) + stored)
    scaled = slope not in (0, 1) and np.isfinite(slope)
    expected = slope * IMAGE + offset if scaled else IMAGE
    found, _ = read_and_list(tmp_path / "scan.nii")
    np.testing.assert_array_equal(found.image, expected)


@pytest.mark.parametrize("place", [1e32, -1e32, np.inf, np.nan, 1e6])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, place):
    path = tmp_path / "scan.nii"
    write_scan(path, np.eye(4), 1, 1)
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(place).tobytes()  # vox_offset
    path.write_bytes(content)
    with pytest.raises(InputError, match="scan.nii"):
        read_scan(path)
