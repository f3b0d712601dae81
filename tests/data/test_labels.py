"""Labels and channels: what comes in is what is meant, goes out as it came, or is refused."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgermt.data.io import read_h5, read_mask, write_h5, write_mask
from lgermt.data.labels import MAX_CLASSES, find_label_values, map_labels, unmap_labels
from lgermt.data.volume import Volume, normalize, resample_to_spacing
from lgermt.utils.errors import InputError

seeds = st.integers(0, 2**32 - 1)
SHAPE = (5, 4, 3)
value_sets = st.lists(st.integers(1, 3000), min_size=2, max_size=8, unique=True)


def random_label(seed, values, shape=SHAPE):
    "Background and some of the values."
    return np.random.default_rng(seed).choice([0, *values], shape)


@given(seed=seeds, values=value_sets, dtype=st.sampled_from(["u2", "i4", "i8", "f4", "f8"]))
def test_any_small_set_of_integers_goes_there_and_back(seed, values, dtype):
    label = random_label(seed, values).astype(dtype)
    classes = map_labels(label, values)
    assert classes.dtype == np.uint8 and classes.max() <= len(values)
    for number, value in enumerate(values, 1):  # the plain reference
        np.testing.assert_array_equal(classes == number, label == value)
    np.testing.assert_array_equal(unmap_labels(classes, values), label)
    assert set(find_label_values(label)) == set(label.ravel().astype(int)) - {0}


@given(seed=seeds, values=value_sets, noise=st.floats(1e-7, 1e-4))
def test_almost_whole_values_are_rounded_and_that_is_said(seed, values, noise):
    label = random_label(seed, values) - noise
    label[0, 0, 0] = values[0] - noise
    with pytest.warns(UserWarning, match="^lb.nii: label values .* rounded$"):
        classes = map_labels(label, values, "lb.nii")
    np.testing.assert_array_equal(classes, map_labels(np.rint(label), values))


@given(seed=seeds, values=value_sets, stranger=st.integers(3001, 4000))
def test_a_value_of_no_class_is_refused(seed, values, stranger):
    label = random_label(seed, values)
    label[1, 1, 1] = stranger
    with pytest.raises(InputError, match="^lb.nii: label values .*: only 0 .background. and "):
        map_labels(label, values, "lb.nii")


@pytest.mark.parametrize("value", [255, 420])
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_one_structure_of_the_challenges_is_read_with_a_warning(value, dtype):
    label = value * random_label(0, [1]).astype(dtype)
    with pytest.warns(UserWarning, match=f"lb.nii: label values 0 and {value} read as 0 and 1"):
        found = map_labels(label, (1,), "lb.nii")
    np.testing.assert_array_equal(found, label > 0)


@pytest.mark.parametrize(
    "values", [(0, 2), (0, 1, 255), (0, 255, 420), (0, 0.5), (-1, 0), (0, np.nan), (0, np.inf)]
)
def test_what_may_mean_anything_is_refused(values):
    label = np.resize(np.array(values), SHAPE)
    with pytest.raises(InputError, match="^lb.nii: label values "):
        map_labels(label, (1,), "lb.nii")


def test_an_image_given_as_a_label_is_refused():
    image = np.arange(MAX_CLASSES + 2).repeat(3)
    with pytest.raises(InputError, match="22 different values, 0, 1, 2, 3, 4, ...: an image"):
        find_label_values(image)
    assert len(find_label_values(image[:-3])) == MAX_CLASSES
    probability = np.random.default_rng(0).random(SHAPE)
    with pytest.raises(InputError, match="whole numbers are needed"):
        find_label_values(probability)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
@given(seed=seeds, values=value_sets)
def test_a_mask_of_classes_carries_the_values_of_the_labels(tmp_path, suffix, seed, values):
    classes = map_labels(random_label(seed, values), values)
    scan = Volume(np.zeros(SHAPE, np.float32), None, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    write_mask(tmp_path / f"m{suffix}", classes, scan, values)
    found = read_mask(tmp_path / f"m{suffix}", scan, values)
    np.testing.assert_array_equal(found, classes)


@given(seed=seeds, channels=st.integers(2, 4))
def test_channels_are_stored_normalised_and_resampled_by_themselves(tmp_path, seed, channels):
    rng = np.random.default_rng(seed)
    scales = rng.uniform(1, 100, (channels, 1, 1, 1))
    image = (scales * rng.normal(size=(channels, 6, 5, 4)) + scales).astype(np.float32)
    label = rng.integers(0, 4, image.shape[1:]).astype(np.uint8)
    volume = Volume(image, label, (1.0, 1.0, 2.0))
    write_h5(tmp_path / "s.h5", volume)
    found = read_h5(tmp_path / "s.h5", num_classes=4)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.label, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coarse = resample_to_spacing(volume, (2.0, 2.0, 2.0))
    assert coarse.image.shape == (channels, *coarse.shape) and coarse.label.shape == coarse.shape
    for number in range(channels):
        alone = Volume(image[number], None, (1.0, 1.0, 2.0))
        np.testing.assert_array_equal(normalize(image)[number], normalize(image[number]))
        same = resample_to_spacing(alone, (2.0, 2.0, 2.0)).image
        np.testing.assert_array_equal(coarse.image[number], same)


@given(seed=seeds, factor=st.sampled_from([0.5, 0.8, 1.7, 2.0]))
def test_two_classes_are_resampled_as_a_cut_at_one_half(seed, factor):
    label = np.random.default_rng(seed).integers(0, 2, (8, 7, 6)).astype(np.uint8)
    as_image = Volume(label.astype(np.float32), None, (1.0, 1.0, 1.0))
    share = resample_to_spacing(as_image, (factor,) * 3).image
    found = resample_to_spacing(Volume(as_image.image, label, (1.0, 1.0, 1.0)), (factor,) * 3).label
    np.testing.assert_array_equal(found, share >= 0.5)
