"""Surface Dice beside that of DeepMind's `surface-distance`, whose surface lies elsewhere."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.stats import spearmanr
from trust.science import random_masks

from lgermt.data.phantom import make_phantom
from lgermt.evaluation.metrics import TOLERANCES, surface_dice

ONE_VOXEL = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("surface_distance", reason="pip install lgermt[trust]")


def of_library(library, prediction, reference, tolerances, spacing=ONE_VOXEL):
    "Surface Dice by the library, one per tolerance."
    distances = library.compute_surface_distances(reference, prediction, spacing)
    of_tolerance = library.compute_surface_dice_at_tolerance
    return [float(of_tolerance(distances, tolerance)) for tolerance in tolerances]


def test_where_both_definitions_agree_the_numbers_are_equal(library):
    box = np.zeros((14, 13, 12), bool)
    box[2:8, 3:9, 2:9] = True
    for shift in (1, 2, 3):  # every face and every edge moves by whole voxels, or stays
        moved = np.roll(box, shift, 0)
        assert (
            of_library(library, moved, box, (shift,)) == surface_dice(moved, box, (shift,)) == [1]
        )
    spacing = (0.7, 1.3, 2.1)
    far = np.roll(box, 5, 2)[:, ::-1]
    in_mm = of_library(library, far, box, (50,), spacing), surface_dice(far, box, (50,), spacing)
    assert in_mm == ([1], [1])


def test_on_random_shapes_ours_is_lower_and_ranks_alike(library):
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(100):
        masks = random_masks(rng)
        ours.append(surface_dice(*masks, TOLERANCES))
        theirs.append(of_library(library, *masks, TOLERANCES))
    difference = np.median(np.subtract(ours, theirs), axis=0)
    assert (difference > -0.12).all() and (difference < -0.02).all()  # the lesson: -0.08, -0.04
    for n in range(len(TOLERANCES)):
        assert spearmanr([row[n] for row in ours], [row[n] for row in theirs]).statistic > 0.95


def test_on_an_atrium_the_two_differ_less(library):
    _, label = make_phantom(2)
    truth = label > 0
    moved, peeled = np.roll(truth, 2, 0), binary_erosion(truth)
    assert surface_dice(moved, truth, (1,)) == pytest.approx([0.87], abs=0.005)
    assert of_library(library, moved, truth, (1,)) == pytest.approx([0.94], abs=0.005)
    assert of_library(library, moved, truth, (2,)) == surface_dice(moved, truth, (2,)) == [1]
    assert surface_dice(peeled, truth, (1,)) == pytest.approx(
        of_library(library, peeled, truth, (1,)), abs=0.02
    )
