"""Orientation: all 48 orders of the axes and oblique grids, with nibabel as the second reader."""

import itertools
import warnings
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lgermt.data.volume import (
    OPPOSITE_LETTERS,
    Volume,
    find_axes,
    nifti_affine,
    orientation_code,
    reorient,
    reorient_array,
    voxel_to_world,
)
from lgermt.data.volume_checks import grid_mismatch, same_voxels_on
from lgermt.utils.errors import InputError

CODES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*order)
]
SHAPE = (4, 5, 6)
SPACING = (1.0, 1.5, 2.5)

codes = st.sampled_from(CODES)
seeds = st.integers(0, 2**32 - 1)


def random_scan(seed, code="LPS", degrees=0.0, channels=1):
    "A scan whose voxels are all different, stored in an orientation and turned about an axis."
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    angle = np.deg2rad(degrees)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    letters = dict(L=(1, 0, 0), R=(-1, 0, 0), P=(0, 1, 0), A=(0, -1, 0), S=(0, 0, 1), I=(0, 0, -1))
    columns = np.transpose([letters[letter] for letter in code])
    image = rng.permutation(channels * 120).reshape(channels, *SHAPE).astype(np.float32)
    return Volume(
        image[0] if channels == 1 else image,
        rng.integers(0, 2, SHAPE).astype(np.uint8),
        SPACING,
        tuple(rng.uniform(-100, 100, 3)),
        tuple((rotation @ columns).ravel()),
    )


def as_nibabel(volume):
    "The scan as nibabel holds it."
    return nibabel.Nifti1Image(volume.image, nifti_affine(volume))


def assert_same_place(one, other):
    "Every voxel of one, found by its value, lies where it lies in the other."
    for value in one.image.ravel()[:: one.image.size // 7]:
        here = voxel_to_world(one, np.argwhere(one.image == value)[0])
        there = voxel_to_world(other, np.argwhere(other.image == value)[0])
        np.testing.assert_allclose(here, there, atol=1e-9)


def test_there_are_48_orders():
    assert len(set(CODES)) == 48
    assert all(OPPOSITE_LETTERS[OPPOSITE_LETTERS[letter]] == letter for letter in "LRPASI")


@pytest.mark.parametrize("code", CODES)
def test_an_upright_scan_is_called_by_its_letters(code):
    scan = random_scan(0, code)
    assert orientation_code(scan) == code == "".join(nibabel.aff2axcodes(nifti_affine(scan)))


@pytest.mark.parametrize("code", CODES)
def test_every_order_is_brought_to_every_other_as_nibabel_does(code):
    scan = random_scan(1, code)
    for wanted in CODES:
        turned = reorient(scan, wanted)
        transform = ornt_transform(io_orientation(nifti_affine(scan)), axcodes2ornt(wanted))
        oracle = as_nibabel(scan).as_reoriented(transform)
        np.testing.assert_array_equal(turned.image, np.asarray(oracle.dataobj))
        np.testing.assert_allclose(nifti_affine(turned), oracle.affine, atol=1e-9)
        assert orientation_code(turned) == wanted


@given(seed=seeds, code=codes, wanted=codes, degrees=st.floats(0, 180))
def test_there_and_back_is_exact_and_nothing_moves(seed, code, wanted, degrees):
    scan = random_scan(seed, code, degrees)
    turned = reorient(scan, wanted)
    assert_same_place(scan, turned)
    own = orientation_code(scan)
    np.testing.assert_array_equal(reorient_array(turned.image, wanted, own), scan.image)
    np.testing.assert_array_equal(reorient_array(turned.label, wanted, own), scan.label)
    again = reorient(turned, own)
    np.testing.assert_array_equal(again.image, scan.image)
    assert grid_mismatch(scan, again) is None
    assert own == "".join(nibabel.aff2axcodes(nifti_affine(scan)))


@given(seed=seeds, code=codes, wanted=codes)
def test_channels_and_label_turn_together(seed, code, wanted):
    scan = random_scan(seed, code, 20, channels=3)
    turned = reorient(scan, wanted)
    assert turned.shape == turned.label.shape
    for channel, image in enumerate(scan.image):
        alone = reorient(replace(scan, image=image), wanted)
        np.testing.assert_array_equal(turned.image[channel], alone.image)
        np.testing.assert_array_equal(turned.label, alone.label)
    probabilities = np.random.default_rng(seed).random((4, *turned.shape))
    home = reorient_array(probabilities, wanted, orientation_code(scan))
    assert home.shape == (4, *scan.shape)


@given(seed=seeds, code=codes, degrees=st.floats(0, 180))
def test_the_same_voxels_in_any_order_are_found(seed, code, degrees):
    scan = random_scan(seed, "LPS", degrees)
    stored = reorient(scan, code)
    np.testing.assert_array_equal(same_voxels_on(scan, stored.label, stored), scan.label)


@given(seed=seeds, code=codes, shift=st.floats(0.3, 50), axis=st.integers(0, 2))
def test_voxels_beside_the_scan_are_refused(seed, code, shift, axis):
    scan = random_scan(seed, "LPS", 30)
    stored = reorient(scan, code)
    origin = np.array(stored.origin)
    origin[axis] += shift
    with pytest.raises(InputError, match="m.nii: does not lie on scan: their .* voxel"):
        same_voxels_on(scan, stored.label, replace(stored, origin=tuple(origin)), "m.nii")


@given(seed=seeds, code=codes)
def test_a_mask_of_the_whole_scan_is_cut_to_the_crop(seed, code):
    whole = random_scan(seed, "LPS", 30)
    first = (1, 2, 3)
    cropped = Volume(
        whole.image[1:3, 2:5, 3:5],
        whole.label[1:3, 2:5, 3:5],
        SPACING,
        tuple(voxel_to_world(whole, first)),
        whole.direction,
    )
    stored = reorient(whole, code)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = same_voxels_on(cropped, stored.label, stored)
    np.testing.assert_array_equal(found, cropped.label)
    assert [str(warning.message) for warning in caught] == ["mask: cut to the box of scan"]


@pytest.mark.parametrize("code", ["", "LP", "LLS", "LRS", "lps", "XYZ", "LPSS"])
def test_letters_that_name_no_orientation_are_refused(code):
    with pytest.raises(ValueError, match="each is one of"):
        find_axes("LPS", code)


def test_a_cube_with_exchanged_axes_is_another_grid():
    cube = Volume(np.zeros((5, 5, 5), np.float32))
    exchanged = np.eye(3)[:, [0, 2, 1]]
    assert grid_mismatch(cube, replace(cube, direction=tuple(exchanged.ravel())))
