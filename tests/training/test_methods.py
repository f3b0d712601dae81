"""Every row of METHODS in the training loop: a few steps, resumed to the last bit."""

import io

import pytest
import torch
from helpers import assert_same, leaves

from lgermt.data.phantom import make_phantom
from lgermt.training.config import TrainConfig, resolve_config
from lgermt.training.methods import METHODS
from lgermt.training.trainer import Trainer

STEPS = 4
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def batch():
    "Four pieces of phantoms with their labels."
    scans = [make_phantom(seed, (32, 32, 32), (3.0, 3.0, 3.0)) for seed in range(4)]
    images, labels = (
        torch.stack([torch.from_numpy(scan[i][..., 8:24]) for scan in scans]) for i in range(2)
    )
    return images[:, None], labels.long()


def learner(method, out, **settings):
    "A tiny learner of a row."
    return Trainer(
        resolve_config(
            TrainConfig(
                data="phantom",
                out=out,
                method=method,
                patch=(32, 32, 16),
                base_channels=2,
                iterations=STEPS,
                block_size=8,
                device="cpu",
                precision="fp32",
                **settings,
            )
        )
    )


def train(pupil, batch, iterations):
    "The loop without scans: the losses of the last step."
    images, labels = batch
    annotated = 2 if pupil.method.unlabeled else 4
    for iteration in iterations:
        losses = pupil.step(images, labels[:annotated], iteration)
    return losses


def written(state):
    "A state as a file brings it back."
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_method
def test_a_method_trains_and_resumes_to_the_last_bit(method, batch, tmp_path):
    whole = learner(method, tmp_path)
    start = written(whole.state_dict())
    losses = train(whole, batch, range(STEPS))
    row = METHODS[method]
    assert losses.keys() == {"loss", *(term.name for term in (*row.terms, *row.auxiliary_terms))}
    assert all(
        value.shape == () and value.isfinite() and not value.requires_grad
        for value in losses.values()
    )

    first = learner(method, tmp_path)
    train(first, batch, range(STEPS // 2))
    second = learner(method, tmp_path, seed=0)
    second.load_state_dict(written(first.state_dict()))
    again = train(second, batch, range(STEPS // 2, STEPS))
    assert_same(whole.state_dict(), second.state_dict())
    assert_same(losses, again)

    end = whole.state_dict()
    assert ("teacher" in end) == row.has_teacher and ("networks" in end) == bool(
        row.make_auxiliary_networks
    )
    for part in {"student", "teacher", "networks"} & end.keys():  # all of them have learnt
        before, after = leaves(start[part]), leaves(end[part])
        assert all(
            not torch.equal(before[name], after[name]) for name in after if name.endswith("weight")
        ), part


@every_method
def test_a_method_forgets_its_gradients(method, batch, tmp_path):
    pupil = learner(method, tmp_path)
    train(pupil, batch, range(1))
    networks = [pupil.student, *filter(None, [pupil.teacher]), *pupil.auxiliary_networks.values()]
    assert all(weight.grad is None for network in networks for weight in network.parameters())


def test_asdnet_takes_note_of_dice_and_keeps_it(batch, tmp_path):
    pupil = learner("asdnet", tmp_path)
    judge = pupil.auxiliary_networks["confidence"]
    assert judge.threshold() == 1
    train(pupil, batch, range(2))
    assert 0 < judge.running_dice < 0.03
    other = learner("asdnet", tmp_path)
    other.load_state_dict(written(pupil.state_dict()))
    assert other.auxiliary_networks["confidence"].threshold() == judge.threshold() < 1


def test_the_students_step_does_not_move_the_judge(batch, tmp_path):
    pupil = learner("asdnet", tmp_path)
    pupil.auxiliary_step = lambda step, ramp: {}
    before = written(pupil.state_dict())
    train(pupil, batch, range(2))
    assert_same(before["networks"], pupil.state_dict()["networks"])
    assert not torch.equal(before["student"]["classifier.weight"], pupil.student.classifier.weight)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("method", ["tcse", "ua-mt", "asdnet"])
def test_the_rivals_take_other_settings(method, norm, batch, tmp_path):
    pupil = learner(
        method,
        tmp_path,
        norm=norm,
        preset="released" if method != "asdnet" else "paper",
        block_sampling="grid",
    )
    assert train(pupil, batch, range(2))["loss"].isfinite()
