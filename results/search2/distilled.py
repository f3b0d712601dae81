"""A row whose teacher knows more than one network does: several trained ones, whose mean it is.

`--plugin` takes this file, and `--distilled.runs A,B,C` the runs. These networks do not change.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from lgermt.losses.supervised import SUPERVISED
from lgermt.losses.terms import StepContext, Term, TermOptions
from lgermt.losses.weak_to_strong import soft_ce_dice_loss
from lgermt.training.checkpoint import load_model
from lgermt.training.config import TrainConfig
from lgermt.training.methods import WEAK_TO_STRONG_DEFAULTS, Method
from lgermt.utils.environment import pick_precision


@dataclass(frozen=True)
class DistilledOptions(TermOptions):
    "Options of the term that learns from trained networks."

    runs: str = ""
    "Folders of the runs, with commas between them."


@lru_cache
def trained_networks(
    runs: str,  # folders with commas between them
    device: torch.device,
) -> list[nn.Module]:  # in evaluation mode
    "The networks of these runs. Raises `InputError` when one cannot be read."
    return [load_model(run.strip(), device)[0] for run in runs.split(",")]


def distilled(
    step: StepContext,  # of the unannotated patches
    options: DistilledOptions,
) -> Tensor:  # 0-d float32, >= 0
    "L_W with the mean probabilities of the trained networks as soft labels (Hinton et al., 2015)."
    device = step.images.device
    precision = pick_precision(step.config.precision, device)
    images = step.images.to(memory_format=torch.channels_last_3d)
    q = []
    with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision is not None):
        for network in trained_networks(options.runs, device):
            q.append(network(images).float().softmax(1))
    return soft_ce_dice_loss(step.logits, torch.stack(q).mean(0))


def check_runs(
    options: DistilledOptions,
    config: TrainConfig,  # of the run
) -> None:
    "Raises `ValueError` where no run is named."
    if not options.runs:
        raise ValueError("names no run; give the folders of trained runs")


DISTILLED = Term(
    "distilled",
    distilled,
    covers="unlabeled",
    ramped=False,  # these teachers are as good at the beginning as at the end
    options=DistilledOptions(),
    check=check_runs,
)

METHODS = {
    "distilled": Method(
        "Soft labels of several trained networks",
        "after Hinton et al., 2015",
        (SUPERVISED, DISTILLED),
        has_teacher=False,
        defaults=WEAK_TO_STRONG_DEFAULTS,
    )
}
