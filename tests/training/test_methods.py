"""Every row of METHODS in the training step: a few steps, saved half-way, resumed bit for bit."""

import io
from dataclasses import replace

import pytest
import torch
from helpers import assert_same, leaves, tiny_config

from lgermt.data.phantom import make_phantom
from lgermt.losses.mixing import MixedBatch
from lgermt.training.methods import METHODS
from lgermt.training.trainer import Trainer

STEPS = 4
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def batch():
    "Four pieces of phantoms with their labels."
    scans = [make_phantom(seed, (32, 32, 32), (3.0, 3.0, 3.0)) for seed in range(4)]
    images = torch.stack([torch.from_numpy(image[..., 8:24]) for image, _ in scans])
    labels = torch.stack([torch.from_numpy(label[..., 8:24]) for _, label in scans])
    return images[:, None], labels.long()


def make_trainer(method, out, classes=None, channels=None, **settings):
    "A tiny trainer of a row; classes and channels are those of the data if they are not given."
    config = tiny_config(out, method, iterations=STEPS, **settings)
    of_data = {"classes": classes or config.classes, "channels": channels or config.channels}
    return Trainer(replace(config, **of_data))


def labeled_part(trainer, batch):
    "Images, and the labels of as many as the row takes."
    images, labels = batch
    return images, labels[: trainer.method.num_labeled(4, 2)]


def train(trainer, batch, iterations):
    "The training loop without scans; the losses of the last step."
    for iteration in iterations:
        losses = trainer.step(*labeled_part(trainer, batch), iteration)
    return losses


def through_file(state):
    "A state as a file brings it back."
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_method
def test_a_method_trains_and_resumes_bit_for_bit(method, batch, tmp_path):
    whole = make_trainer(method, tmp_path)
    start = through_file(whole.state_dict())
    losses = train(whole, batch, range(STEPS))
    row = METHODS[method]
    assert losses.keys() == {"loss", *(term.name for term in row.all_terms)}
    for value in losses.values():
        assert value.shape == () and value.isfinite() and not value.requires_grad

    first = make_trainer(method, tmp_path)
    train(first, batch, range(STEPS // 2))
    second = make_trainer(method, tmp_path, seed=0)
    second.load_state_dict(through_file(first.state_dict()))
    again = train(second, batch, range(STEPS // 2, STEPS))
    assert_same(whole.state_dict(), second.state_dict())
    assert_same(losses, again)

    end = whole.state_dict()
    assert ("teacher" in end) == row.has_teacher
    assert ("networks" in end) == bool(row.networks)
    for part in {"student", "teacher", "networks"} & end.keys():  # all of them have learnt
        before, after = leaves(start[part]), leaves(end[part])
        for name in after:
            if name.endswith("weight"):
                assert not torch.equal(before[name], after[name]), (part, name)


@every_method
def test_a_method_trains_four_classes_from_two_channels(method, tmp_path):
    parts = {"classes": ("body", "veins", "aorta"), "channels": ("t1", "lge")}
    trainer = make_trainer(method, tmp_path, **parts)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (4, 32, 32, 16), generator=generator)
    noise = torch.randn(4, 2, 32, 32, 16, generator=generator)
    images = noise + torch.stack([labels == 1, labels > 1], 1).float()
    before = through_file(trainer.state_dict())
    for losses in (trainer.step(*labeled_part(trainer, (images, labels)), i) for i in (0, 3)):
        assert all(value.isfinite() for value in losses.values())
    after = trainer.state_dict()
    for part in {"student", "networks"} & after.keys():
        weights = leaves(before[part]), leaves(after[part])
        for name in weights[0]:
            if name.endswith("weight"):
                assert weights[1][name].isfinite().all()
                assert not torch.equal(weights[0][name], weights[1][name]), (part, name)


@every_method
def test_a_method_leaves_no_gradients(method, batch, tmp_path):
    trainer = make_trainer(method, tmp_path)
    train(trainer, batch, range(1))
    networks = [trainer.student, *trainer.networks.values()]
    if trainer.teacher is not None:
        networks.append(trainer.teacher)
    assert all(weight.grad is None for network in networks for weight in network.parameters())


@every_method
def test_what_a_row_mixes_is_what_the_student_sees(method, batch, tmp_path):
    trainer = make_trainer(method, tmp_path, augmentation="none")
    context = trainer.make_context(*labeled_part(trainer, batch), iteration=STEPS - 1)
    with trainer.seeded_dropout(STEPS - 1):
        trainer.predict(context)
    row = METHODS[method]
    if row.mix is None:
        assert context.mixed is None and len(context.logits) == len(context.images)
    else:
        assert isinstance(context.mixed, MixedBatch)
        assert torch.equal(row.student_input(context), context.mixed.images)
        assert len(context.logits) == len(context.mixed.images)


@every_method
def test_a_loss_changes_no_state(method, batch, tmp_path):
    trainer = make_trainer(method, tmp_path)
    before = through_file(trainer.state_dict())
    context = trainer.make_context(*labeled_part(trainer, batch), iteration=2)
    with trainer.seeded_dropout(2):
        trainer.predict(context)
        for term in trainer.method.all_terms:
            value = term.value(context, trainer.options[term.name])
            assert value.isfinite(), term.name
    assert_same(before, trainer.state_dict())


def test_asdnet_keeps_its_running_dice(batch, tmp_path):
    trainer = make_trainer("asdnet", tmp_path)
    discriminator = trainer.networks["confidence"]
    assert discriminator.threshold() == 1
    train(trainer, batch, range(2))
    assert 0 < discriminator.running_dice < 0.03
    other = make_trainer("asdnet", tmp_path)
    other.load_state_dict(through_file(trainer.state_dict()))
    kept = other.networks["confidence"].threshold()
    assert kept == discriminator.threshold() < 1


def test_the_students_step_leaves_the_discriminator_as_it_is(batch, tmp_path):
    trainer = make_trainer("asdnet", tmp_path)
    trainer.method = replace(trainer.method, networks={})  # no step of its own
    before = through_file(trainer.state_dict())
    train(trainer, batch, range(2))
    after = trainer.state_dict()
    assert_same(before["networks"], after["networks"])
    name = "classifier.weight"
    assert not torch.equal(before["student"][name], after["student"][name])


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("method", ["tcse", "ua-mt", "asdnet"])
def test_the_rivals_take_other_settings(method, norm, batch, tmp_path):
    preset = "paper" if method == "asdnet" else "released"
    trainer = make_trainer(method, tmp_path, norm=norm, preset=preset)
    assert train(trainer, batch, range(2))["loss"].isfinite()
