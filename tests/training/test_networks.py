"""Every network of the registry, with four classes and two channels: train, resume, divide."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import ENVIRONMENT, assert_same, run
from helpers import train as run_training
from two_ranks import PARTS, ROWS_OF_NETWORKS, one_step

from lgermt.data.io import write_h5
from lgermt.data.volume import Volume
from lgermt.evaluation.sliding_window import sliding_window
from lgermt.models.registry import MODELS
from lgermt.models.vnet import VNet
from lgermt.training.checkpoint import load_model, save_checkpoint
from lgermt.training.config import TrainConfig, resolve_config
from lgermt.training.trainer import Trainer
from lgermt.utils.errors import InputError

WORKER = Path(__file__).with_name("two_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

every_network = pytest.mark.parametrize("network", MODELS)
every_row = pytest.mark.parametrize("method", ROWS_OF_NETWORKS)


def make_trainer(network, method, out):
    "A tiny trainer for four classes and two channels."
    config = TrainConfig(
        data="phantom",
        out=out,
        method=method,
        network=network,
        patch=(32, 32, 16),
        base_channels=2,
        iterations=2,
        device="cpu",
        precision="fp32",
    )
    return Trainer(dataclasses.replace(resolve_config(config), **PARTS))


def train(trainer, iterations):
    "Steps on noise; the losses of the last."
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 32, 32, 16, generator=generator)
    labels = torch.randint(4, (2, 32, 32, 16), generator=generator)
    for iteration in iterations:
        losses = trainer.step(images, labels, iteration)
    return losses


@every_network
@every_row
def test_a_network_trains_and_resumes_bit_for_bit(network, method, tmp_path):
    whole = make_trainer(network, method, tmp_path)
    assert isinstance(whole.student, MODELS[network])
    losses = train(whole, range(2))
    assert all(value.isfinite() for value in losses.values())

    first, second = (make_trainer(network, method, tmp_path) for _ in range(2))
    before = {name: value.clone() for name, value in first.student.state_dict().items()}
    train(first, range(1))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_same(losses, train(second, range(1, 2)))
    assert_same(whole.state_dict(), second.state_dict())
    for name, value in second.student.state_dict().items():
        assert not name.endswith("weight") or not torch.equal(value, before[name]), name


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    "One step of every network on two processes."
    file = tmp_path_factory.mktemp("networks") / "steps.pt"
    command = [*TORCHRUN, str(WORKER), "networks", str(file)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(file, weights_only=True)


@every_network
@every_row
def test_two_processes_equal_one(on_two, network, method):
    alone, divided = one_step(method, network, PARTS), on_two[f"{network} {method}"]
    assert alone.keys() == divided.keys() and any(key.startswith("gradient") for key in alone)
    for key, value in alone.items():
        # a gradient is a float32 sum over up to 65,536 voxels, rounded as it is divided
        atol = 1e-4 if key.startswith("gradient") else 1e-5
        torch.testing.assert_close(
            divided[key], value, atol=atol, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


@every_network
def test_a_checkpoint_knows_its_network(network, tmp_path):
    trainer = make_trainer(network, "mt", tmp_path)
    path = tmp_path / "last.pt"
    save_checkpoint(path, trainer, 0)
    model, config = load_model(path, torch.device("cpu"))
    assert config.network == network and isinstance(model, MODELS[network])
    assert_same(model.state_dict(), trainer.student.state_dict())


def test_a_checkpoint_of_before_is_a_vnet(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_trainer("vnet", "mt", tmp_path), 0)
    state = torch.load(path, weights_only=True)
    for name in ("network", *PARTS):
        state["config"].pop(name)
    state["student"] = VNet(base_channels=2, norm="instance").state_dict()
    torch.save(state, path)
    model, config = load_model(path, torch.device("cpu"))
    assert isinstance(model, VNet) and (config.in_channels, config.num_classes) == (1, 2)


def test_an_unknown_network_is_one_line(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_trainer("vnet", "mt", tmp_path), 0)
    state = torch.load(path, weights_only=True)
    state["config"]["network"] = "unet"
    torch.save(state, path)
    with pytest.raises(
        InputError, match="network unet: unknown; choose one of vnet resunet"
    ) as one:
        load_model(path, torch.device("cpu"))
    assert "\n" not in str(one.value)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    "Four scans of two channels and four classes, one of them to test with."
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for number in range(4):
        label = np.zeros((40, 32, 24), np.uint8)
        for value in (1, 2, 3):  # boxes inside each other
            label[4 * value : -4 * value, 3 * value : -3 * value, 2 * value : -2 * value] = value
        noise = rng.normal(size=(2, *label.shape))
        image = np.stack([label == 1, label]).astype(np.float32) + 0.2 * noise.astype(np.float32)
        write_h5(folder / f"{number}" / "mri_norm2.h5", Volume(image, label, id=f"{number}"))
    (folder / "train.list").write_text("0\n1\n2\n")
    (folder / "test.list").write_text("3\n")
    (folder / "prepare.json").write_text(json.dumps({"spacing": None, **PARTS}))
    return folder


@every_network
def test_from_training_to_an_onnx_graph(network, parts, tmp_path):
    out, model = tmp_path / "run", tmp_path / "model"
    # group norm: instance norm over a bottleneck of 4 voxels amplifies rounding
    run_training(parts, out, "--network", network, "--iterations", 2, "--norm", "group")
    assert json.loads((out / "config.json").read_text())["network"] == network
    scores = tmp_path / "scores.json"
    run("evaluate", "--checkpoint", out / "last.pt", "--data", parts, "--out", scores)
    assert json.loads(scores.read_text())["classes"].keys() == set(PARTS["classes"])

    run("export", "--checkpoint", out / "last.pt", "--out", model, "--onnx")
    assert MODELS[network].title in (model / "README.md").read_text()
    with h5py.File(parts / "3" / "mri_norm2.h5") as file:
        image = torch.from_numpy(file["image"][()])
    window = ((32, 32, 16), (32, 32, 8))
    places = [out / "last.pt", model, model / "model.onnx"]
    found = [sliding_window(load_model(p, torch.device("cpu"))[0], image, *window) for p in places]
    assert found[0].shape == (4, 40, 32, 24)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("command", ["train", "doctor", "benchmark", "compare"])
def test_a_command_names_the_networks_there_are(command, tmp_path):
    more = {
        "train": ["--data", "phantom", "--out", tmp_path / "run"],
        "doctor": [],
        "benchmark": ["--json", tmp_path / "benchmark.json"],
        "compare": ["--data", "phantom", "--out", tmp_path / "results", "--methods", "mt"],
    }
    said = run(command, "--network", "unet", *more[command], code=2)
    (line,) = said.errors
    assert "--network unet: unknown; choose one of vnet resunet" in line
