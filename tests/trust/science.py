"Sections on what is computed: weights of the losses, metrics, two processes."

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from lgermt.evaluation.metrics import mask_metrics, surface_dice
from lgermt.losses.terms import PRESET_NAMES
from lgermt.training.methods import METHODS
from trust.common import Figures, pytest_run

TOLERANCE = 2  # mm, of surface Dice


def random_masks(rng):
    "Two masks of one random shape that overlap as a good and a bad prediction do."
    shape = tuple(rng.integers(6, 32, 3))
    noise = gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 3))
    other = gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 3))
    share = rng.uniform(0, 1)
    mixed = share * noise / noise.std() + (1 - share) * other / other.std()
    masks = []
    for values in (noise, mixed):
        mask = values > np.quantile(values, rng.uniform(0.5, 0.95))
        masks.append(mask if mask.any() else values == values.max())
    return masks


def metrics_of_medpy(prediction, reference, spacing):
    "The four metrics by the library that the paper's authors call."
    from medpy.metric import binary

    return {
        "dice": binary.dc(prediction, reference),
        "jaccard": binary.jc(prediction, reference),
        "asd": binary.asd(prediction, reference, voxelspacing=spacing),
        "hd95": binary.hd95(prediction, reference, voxelspacing=spacing),
    }


def metrics_of_deepmind(prediction, reference, spacing):
    "Dice, and distances between surfaces that lie between the voxels."
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {
        "dice": surface_distance.compute_dice_coefficient(reference, prediction),
        "asd": surface_distance.compute_average_surface_distance(distances)[1],
        "hd95": surface_distance.compute_robust_hausdorff(distances, 95),
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE),
    }


def metrics(size, seed):
    "Metrics are those of medpy; Dice is that of surface-distance, and surface Dice ranks as there."
    rng = np.random.default_rng(seed)
    medpy, deepmind, surface = [], [], []
    for _ in range(size.shapes):
        prediction, reference = random_masks(rng)
        spacing = tuple(rng.uniform(0.4, 2.5, 3))
        ours = mask_metrics(prediction, reference, spacing)
        (ours["surface_dice"],) = surface_dice(prediction, reference, (TOLERANCE,), spacing)
        for found, library in (
            (medpy, metrics_of_medpy(prediction, reference, spacing)),
            (deepmind, metrics_of_deepmind(prediction, reference, spacing)),
        ):
            found.append({name: abs(ours[name] - value) for name, value in library.items()})
        surface.append((ours["surface_dice"], library["surface_dice"]))
    largest = {name: max(row[name] for row in medpy) for name in medpy[0]}
    dice = max(row["dice"] for row in deepmind)
    names = ("asd", "hd95", "surface_dice")
    typical = {name: float(np.median([row[name] for row in deepmind])) for name in names}
    ranks = float(spearmanr(surface).statistic)
    return Figures(
        f"{size.shapes} pairs of random shapes, random voxel sizes",
        f"largest difference {max(dice, *largest.values()):.2g}; surface-distance puts the surface "
        f"between the voxels, which changes ASD by {typical['asd']:.2f} mm, 95HD by "
        f"{typical['hd95']:.2f} mm and surface Dice at {TOLERANCE} mm by "
        f"{typical['surface_dice']:.2f} (medians; rank correlation {ranks:.3f})",
        max(dice, *largest.values()) < 1e-9 and ranks > 0.9,
        {"medpy": largest, "deepmind dice": dice, "deepmind medians": typical, "ranks": ranks},
    )


def weights(size, seed):
    "Every term of every method weighs what the paper or its code says."
    from training.test_weights import PAPER_AND_CODE, config_of

    from lgermt.training.config import effective_weights

    count, wrong = 0, []
    for method, terms in PAPER_AND_CODE.items():
        for preset in PRESET_NAMES:
            found = effective_weights(config_of(method, preset))
            expected = {name: pair[preset != "paper"] for name, pair in terms.items()}
            for name in found.keys() | expected.keys():
                count += 1
                if not np.isclose(found.get(name, -1), expected.get(name, -1), rtol=1e-5, atol=0):
                    wrong.append(f"{method} {preset} {name}")
    return Figures(
        f"{count} weights: {len(PAPER_AND_CODE)} methods, {len(PRESET_NAMES)} presets",
        f"{len(wrong)} differ from the table written by hand",
        not wrong and PAPER_AND_CODE.keys() == METHODS.keys(),
        {"weights": count, "wrong": wrong},
    )


def processes(size, seed):
    "A step on two processes is the step on one."
    done, counts = pytest_run("tests/training/test_distributed.py", "-k", size.steps)
    return Figures(
        f"{counts['passed'] + counts['failed']} methods, a step each",
        f"{counts['failed']} differ",
        done.returncode == 0,
        counts,
    )
