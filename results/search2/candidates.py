"""Candidate rows for the question whether unannotated scans help: `--plugin` takes this file.

Every row is weak-to-strong with one thing changed, so that a difference has one cause.
A row that holds up in the search moves into a lesson. The others stay here, with their numbers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lgermt.data.augmentation import random_intensity
from lgermt.losses.affinity import LOCAL
from lgermt.losses.mixing import confidence_threshold, mix_with_neighbour, random_box_mask
from lgermt.losses.self_information import GLOBAL
from lgermt.losses.supervised import SUPERVISED
from lgermt.losses.terms import MixedBatch, StepContext, Term, mixed_images
from lgermt.losses.weak_to_strong import WEAK_TO_STRONG, soft_ce_dice_loss
from lgermt.training.methods import WEAK_TO_STRONG_DEFAULTS, FurtherNetwork, Method
from lgermt.training.two_networks import SECOND_SUPERVISED, make_second_student


def row(title, source, *terms, defaults=None, **parts):
    "A row with the settings of weak-to-strong."
    defaults = WEAK_TO_STRONG_DEFAULTS | (defaults or {})
    terms = terms or (SUPERVISED, WEAK_TO_STRONG)
    return Method(title, source, terms, teacher_dropout=False, defaults=defaults, **parts)


def strong_view(
    step: StepContext,
    images: Tensor,  # (B, K, X, Y, Z)
) -> Tensor:  # same shape
    "A further draw of the student's intensity augmentation and noise."
    return step.perturb(random_intensity(images, step.generator))


def two_views(step: StepContext) -> Tensor:  # 0-d float32
    "UniMatch: two strong views, and the teacher's probabilities on the weak one as soft labels."
    p_t = step.teacher(step.images)
    second = step.student(strong_view(step, step.images))
    return 0.5 * (soft_ce_dice_loss(step.logits, p_t) + soft_ce_dice_loss(second, p_t))


def sure_voxels(step: StepContext) -> Tensor:  # 0-d float32, >= 0
    "FixMatch's gate with soft labels: only voxels of which the teacher is sure, by a ramp."
    p_t = step.teacher(step.images)
    sure = p_t.amax(1, keepdim=True) > confidence_threshold(step.progress)
    each = -(p_t * step.logits.log_softmax(1)).sum(1, keepdim=True)
    p = step.logits.softmax(1)[:, 1:] * sure
    q = p_t[:, 1:] * sure
    extent = p.square().sum() + q.square().sum()
    dice = (2 * (p * q).sum() + 1e-5) / (extent + 1e-5)
    return 0.5 * ((each * sure).sum() / sure.sum().clamp_min(1) + 1 - dice)


@dataclass(frozen=True)
class SoftCutMixBatch(MixedBatch):
    "Annotated patches as they are, then mixed unannotated ones."

    targets: Tensor  # (U, C, X, Y, Z) the teacher's probabilities, mixed like the images


def mix_soft_cutmix(step: StepContext) -> SoftCutMixBatch:
    "CutMix without a gate: a box of one unannotated patch in another, probabilities likewise."
    labeled, unlabeled = step.images.tensor_split([len(step.labels)])
    box = random_box_mask(step.images.shape[2:], 0.5, step.generator, step.images.device)
    mixed = mix_with_neighbour(unlabeled, box)
    targets = mix_with_neighbour(step.teacher(unlabeled), box)
    return SoftCutMixBatch(torch.cat([labeled, mixed]), targets)


def soft_cutmix(step: StepContext) -> Tensor:  # 0-d float32
    "The teacher's mixed probabilities as soft labels of the mixed patches."
    return soft_ce_dice_loss(step.logits, step.mixed.targets)


def weak_view(step: StepContext) -> Tensor:  # (B, K, X, Y, Z)
    "What the teacher sees: the patches without intensity augmentation and noise."
    return step.images


def shifted_crops(step: StepContext) -> Tensor:  # 0-d float32
    """TraCoCo: two crops of a patch, 16 voxels apart in x and y. Where they overlap, the teacher's
    probabilities in one crop are the soft labels of the student in the other."""
    ahead, behind = slice(16, None), slice(None, -16)
    loss = 0
    for own, other in ((ahead, behind), (behind, ahead)):
        seen, shown = step.images[:, :, own, own], step.images[:, :, other, other]
        logits = step.student(strong_view(step, seen))
        p_t = step.teacher(shown)
        # what lies ahead in the patch is the rear part of the crop behind, and the reverse
        loss = loss + 0.5 * soft_ce_dice_loss(logits[:, :, other, other], p_t[:, :, own, own])
    return loss


def each_others_labels(step: StepContext) -> Tensor:  # 0-d float32
    "CPS with soft labels: each student's probabilities are the other's labels."
    other = step.network_logits["second"]
    first = soft_ce_dice_loss(step.logits, other.softmax(1))
    return 0.5 * (first + soft_ce_dice_loss(other, step.logits.softmax(1)))


def disputed_voxels(step: StepContext) -> Tensor:  # 0-d float32, 0 to 2
    "MCF and SDCL in short: where two students name different classes, they are brought together."
    other = step.network_logits["second"]
    disputed = (step.logits.argmax(1) != other.argmax(1)).unsqueeze(1)
    difference = (step.logits.softmax(1) - other.softmax(1)).square().sum(1, keepdim=True)
    return (difference * disputed).sum() / disputed.sum().clamp_min(1)


EACH_OTHERS_LABELS = Term("each-other", each_others_labels, covers="unlabeled")
DISPUTED = Term("disputed", disputed_voxels, weight=0.5)
TWO_STUDENTS = dict(has_teacher=False, networks={"second": FurtherNetwork(make_second_student)})
WHOLE_PATCH = replace(LOCAL, weight=1.0, options=replace(LOCAL.options, size=0))
STRONG_GLOBAL = replace(GLOBAL, weight=1.0)

METHODS = {
    "two-views": row(
        "Two strong views",
        "after Yang et al., CVPR 2023",
        SUPERVISED,
        Term("views", two_views, covers="unlabeled"),
    ),
    "sure-voxels": row(
        "Soft labels where the teacher is sure",
        "after Sohn et al., NeurIPS 2020",
        SUPERVISED,
        Term("sure", sure_voxels, covers="unlabeled"),
    ),
    "soft-cutmix": row(
        "CutMix with soft labels",
        "after French et al., BMVC 2020",
        SUPERVISED,
        Term("soft-cutmix", soft_cutmix, covers="unlabeled"),
        mix=mix_soft_cutmix,
        student_input=mixed_images,
    ),
    "shifted-crops": row(
        "Two shifted crops",
        "after Liu et al., Medical Image Analysis 2024",
        SUPERVISED,
        Term("shifted", shifted_crops, covers="unlabeled"),
    ),
    "structure-on-views": row(
        "The paper's structure terms on strong views, the whole patch as one block",
        "after Hang et al., MICCAI 2020",
        SUPERVISED,
        WEAK_TO_STRONG,
        WHOLE_PATCH,
        STRONG_GLOBAL,
        teacher_input=weak_view,
    ),
    "more-unannotated": row(
        "Twice the unannotated patches", "this repository", defaults=dict(batch_size=8)
    ),
    "soft-cps": row(
        "Two students, soft labels",
        "after Chen et al., CVPR 2021",
        SUPERVISED,
        SECOND_SUPERVISED,
        EACH_OTHERS_LABELS,
        **TWO_STUDENTS,
    ),
    "disputed": row(
        "Two students that settle what they dispute",
        "after Wang et al., CVPR 2023, and Song and Wang, MICCAI 2024",
        SUPERVISED,
        SECOND_SUPERVISED,
        EACH_OTHERS_LABELS,
        DISPUTED,
        **TWO_STUDENTS,
    ),
}
