"""`--step fused` and the divided step behind `--step graph`: resumed, saved, read back, refused."""

import io
import json
from dataclasses import replace

import pytest
import torch
from helpers import assert_same, tiny_config

from lgermt import train as train_command
from lgermt.models.fused_layers import FusedUnit
from lgermt.training.checkpoint import load_model, save_checkpoint
from lgermt.training.recorded_step import RecordedStep
from lgermt.training.run_folder import changed_settings
from lgermt.training.saved_settings import config_from_dict, config_to_dict
from lgermt.training.trainer import Trainer

STEPS = 4
IMAGES = torch.randn(6, 1, 32, 32, 16, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0] > 0.5).long()


def make_trainer(out, method="lg-er-mt", divided=False, **settings):
    "A tiny trainer; `divided`: its steps are those that a GPU records."
    trainer = Trainer(tiny_config(out, method, iterations=STEPS, **{"step": "fused"} | settings))
    if divided:
        trainer.recorded = RecordedStep(trainer)
    return trainer


def train(trainer, iterations):
    "Steps on noise; the losses of the last."
    config, count = trainer.config, trainer.config.batch_size
    labeled = trainer.method.num_labeled(count, config.labeled_batch_size)
    for iteration in iterations:
        losses = trainer.step(IMAGES[:count], LABELS[:labeled], iteration)
    return losses


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("method", ["vnet", "lg-er-mt", "weak-to-strong"])
def test_a_resumed_run_equals_one_without_a_break(method, divided, tmp_path):
    whole, first, second = (make_trainer(tmp_path, method, divided) for _ in range(3))
    losses = train(whole, range(STEPS))
    train(first, range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_same(losses, train(second, range(2, STEPS)))
    assert_same(whole.state_dict(), second.state_dict())


def test_a_bias_that_a_normalisation_removes_keeps_its_value(tmp_path):
    trainer = make_trainer(tmp_path)
    before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    train(trainer, range(STEPS))
    after = trainer.student.state_dict()
    kept = [name for name in before if torch.equal(before[name], after[name])]
    units = [u for u in trainer.student.modules() if isinstance(u, FusedUnit)]
    assert len(kept) == len(units) == 29
    assert all(name.endswith(".0.bias") for name in kept)
    fused, plain = make_trainer(tmp_path), make_trainer(tmp_path, step="plain")
    torch.testing.assert_close(train(fused, range(1)), train(plain, range(1)), rtol=1e-3, atol=1e-5)


def test_other_commands_read_its_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path)
    train(trainer, range(2))
    save_checkpoint(tmp_path / "last.pt", trainer, 2)
    model, config = load_model(tmp_path / "last.pt", torch.device("cpu"))
    assert config.step == "fused"
    assert not any(isinstance(layer, FusedUnit) for layer in model.modules())
    assert_same(model.state_dict(), trainer.student.state_dict())
    with torch.no_grad():
        images = IMAGES[:2].contiguous(memory_format=torch.channels_last_3d)
        expected = trainer.student.eval()(images)
        torch.testing.assert_close(model(images), expected, atol=1e-3, rtol=1e-3)


def test_a_run_of_before_is_a_plain_one(tmp_path):
    now = config_to_dict(make_trainer(tmp_path, step="plain").config)
    before = {name: value for name, value in now.items() if name != "step"}
    assert config_from_dict(before).step == "plain"
    assert not changed_settings(before, now)
    assert changed_settings(now, {**now, "step": "fused"}) == ["--step fused (was plain)"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--step graph", "--step graph: records programs of an NVIDIA GPU"),
        ("--step fast", "fast"),
    ],
)
def test_what_cannot_be_followed_is_refused(options, words, tmp_path, capsys):
    command = f"--data phantom --out {tmp_path / 'run'} --device cpu --iterations 2 {options}"
    with pytest.raises(SystemExit) as stop:
        train_command.main([*command.split(), "--patch", "32", "32", "16", "--base-channels", "2"])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and words in printed.err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_command_trains_with_fewer_operations(tmp_path):
    command = (
        f"--data phantom --out {tmp_path / 'run'} --device cpu --iterations 2 "
        "--patch 32 32 16 --base-channels 2 --labeled 2 --step fused --stride 32 32 16"
    )
    train_command.main(command.split())
    written = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert written["step"] == "fused" and (tmp_path / "run" / "metrics.json").exists()


def test_two_trainers_with_one_seed_are_equal(tmp_path):
    one, two = make_trainer(tmp_path, divided=True), make_trainer(tmp_path, divided=True)
    other = make_trainer(tmp_path, divided=True)
    other.config = replace(other.config, seed=1)  # other draws, the same first weights
    for trainer in (one, two, other):
        train(trainer, range(2))
    assert_same(one.state_dict(), two.state_dict())
    pairs = zip(one.student.parameters(), other.student.parameters())
    assert not all(torch.equal(a, b) for a, b in pairs)
