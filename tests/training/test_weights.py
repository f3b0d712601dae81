"""What every term of every method weighs at the end of the ramp-up, by preset, written by hand.

`paper`: the text of Hang et al. 2020. lambda_c = 0.1, lambda_e = lambda_l = lambda_g = 0.01; Eq. 3
sums over 4 blocks where our loss takes their mean, so the mean counts 4 x 0.01.
`released`: its authors' code. Half of the mean squared error; the mean over blocks; of Eq. 4 half
the mean over 2 classes in base-2 logarithms, 0.01 x 0.25 / (ln 2)^2 = 0.0052034.
The weights of the rivals on the left atrium are not published; every preset takes those of their
own papers or code. `tuned` and `strong` weigh as the released code does.
"""

from pathlib import Path

import pytest

from lgermt.losses.terms import PRESET_NAMES
from lgermt.training.config import PRESETS, TrainConfig, effective_weights, resolve_config
from lgermt.training.methods import METHODS

BY_CODE = 0.0052034  # the global term
PAPER_AND_CODE = {  # method -> term -> (weight of the text, weight of the code)
    "vnet": {"supervised": (1, 1)},
    "asdnet": {
        "supervised": (1, 1),
        "adversarial": (0.05, 0.05),
        "pseudo-label": (0.5, 0.5),
        "confidence": (1, 1),
    },
    "tcse": {"supervised": (1, 1), "equivariance": (0.1, 0.1)},
    "mt": {"supervised": (1, 1), "consistency": (0.1, 0.05)},
    "mt-dice": {"supervised": (1, 1), "dice-consistency": (0.1, 0.1)},
    "ua-mt": {"supervised": (1, 1), "certain-consistency": (0.1, 0.1)},
    "er-mt": {"supervised": (1, 1), "consistency": (0.1, 0.05), "entropy": (0.01, 0.01)},
    "l-er-mt": {
        "supervised": (1, 1),
        "consistency": (0.1, 0.05),
        "entropy": (0.01, 0.01),
        "local": (0.04, 0.01),
    },
    "g-er-mt": {
        "supervised": (1, 1),
        "consistency": (0.1, 0.05),
        "entropy": (0.01, 0.01),
        "global": (0.01, BY_CODE),
    },
    "lg-er-mt": {
        "supervised": (1, 1),
        "consistency": (0.1, 0.05),
        "entropy": (0.01, 0.01),
        "local": (0.04, 0.01),
        "global": (0.01, BY_CODE),
    },
    # later methods: the weights of their own sources under every preset
    "bcp": {"copy-paste": (1, 1)},
    "cutmix": {"supervised": (1, 1), "cutmix": (1, 1)},
    "weak-to-strong": {"supervised": (1, 1), "guided": (1, 1)},
    "cps": {"supervised": (1, 1), "second-supervised": (1, 1), "cross-pseudo": (0.1, 0.1)},
    "mc-net": {"supervised": (1, 1), "second-supervised": (1, 1), "mutual": (1, 1)},
    # this project's own: the paper's terms on mixed patches
    "lg-bcp": {
        "copy-paste": (1, 1),
        "consistency": (0.1, 0.05),
        "entropy": (0.01, 0.01),
        "local": (0.04, 0.01),
        "global": (0.01, BY_CODE),
    },
}


def config_of(method, preset, **settings):
    "Unresolved settings of a run."
    return TrainConfig("phantom", Path("unused"), method, preset=preset, **settings)


def test_the_table_is_complete():
    assert set(PAPER_AND_CODE) == set(METHODS)
    assert set(PRESETS) == set(PRESET_NAMES)


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("method", PAPER_AND_CODE)
def test_effective_weights(method, preset):
    column = 0 if preset == "paper" else 1
    expected = {name: pair[column] for name, pair in PAPER_AND_CODE[method].items()}
    config = config_of(method, preset)
    assert effective_weights(config) == pytest.approx(expected, rel=1e-5)
    resolved = resolve_config(config)
    recorded = {name: options["weight"] for name, options in resolved.terms.items()}
    assert recorded == effective_weights(resolved) == effective_weights(config)


def test_the_paper_sums_over_the_blocks_that_are_drawn():
    blocks = config_of("lg-er-mt", "paper", terms={"local": {"blocks": 9}})
    assert effective_weights(blocks)["local"] == pytest.approx(0.09)
    whole = config_of("lg-er-mt", "paper", terms={"local": {"size": 0}})
    assert effective_weights(whole)["local"] == pytest.approx(0.01)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_a_weight_that_is_set_is_the_effective_one(preset):
    config = config_of("mt", preset, terms={"consistency": {"weight": 0.3}})
    assert effective_weights(config) == {"supervised": 1, "consistency": 0.3}


def test_the_code_divides_by_the_logarithm_of_the_number_of_classes():
    four = config_of("g-er-mt", "released", classes=("body", "veins", "aorta"))
    # 0.01 x 1/2 x 1/4 / (ln 4)^2
    assert effective_weights(four)["global"] == pytest.approx(0.00065043, rel=1e-4)
