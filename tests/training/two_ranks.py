"""Two processes run this: one step of every method or network, or a training with a signal."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from lgermt import train
from lgermt.models.registry import MODELS
from lgermt.training.config import TrainConfig, resolve_config
from lgermt.training.distributed import process_group, rank
from lgermt.training.methods import METHODS
from lgermt.training.trainer import Trainer

TINY = TrainConfig(
    "phantom",
    Path("unused"),
    labeled=2,
    iterations=20,
    patch=(32, 32, 16),
    base_channels=2,
    device="cpu",
    precision="fp32",
    norm="group",
    optimizer="sgd",
)
# Group norm: instance norm over a bottleneck of 4 voxels amplifies rounding.
# SGD: its first momentum is the gradient.


PARTS = {"classes": ("body", "veins", "aorta"), "label_values": (1, 2, 3), "channels": ("a", "b")}
ROWS_OF_NETWORKS = ("mt", "lg-er-mt")


def one_step(method, network="vnet", data=None):
    "Gradients, weights and losses of the tenth of twenty steps, made by a fresh trainer."
    config = resolve_config(dataclasses.replace(TINY, method=method, network=network))
    config = dataclasses.replace(config, **data or {})
    trainer = Trainer(config)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, config.in_channels, *TINY.patch, generator=generator)
    labeled = 2 if METHODS[method].unlabeled else 4
    levels = torch.linspace(0, 2, labeled).view(-1, 1, 1, 1)  # organs of another size per patch
    labels = torch.zeros_like(images[:labeled, 0], dtype=torch.long)
    for number in range(config.num_classes - 1):  # one inside the other
        labels += images[:labeled, 0] > levels + number / 4
    losses = trainer.step(images, labels, 10)
    state = trainer.state_dict()
    networks = {name: state[name] for name in ("student", "teacher") if name in state}
    networks |= state.get("networks", {})
    results = dict(losses)
    for name, network in networks.items():
        for key, value in network.items():
            results[f"{name}.{key}"] = value
    for i, slot in state["optimizer"]["state"].items():
        results[f"gradient {i}"] = slot["momentum_buffer"]
    return results


def steps(file):
    "One step of every method on all processes; rank 0 writes what came out."
    with process_group("cpu"):
        results = {method: one_step(method) for method in METHODS}
        if rank() == 0:
            torch.save(results, file)


def networks(file):
    "The same for every network, with several classes and channels."
    with process_group("cpu"):
        results = {}
        for network in MODELS:
            for method in ROWS_OF_NETWORKS:
                results[f"{network} {method}"] = one_step(method, network, PARTS)
        if rank() == 0:
            torch.save(results, file)


def trainer_with_signal(number):
    "A trainer class that sends its process a signal in the third step, on the last rank only."

    class SignalingTrainer(Trainer):
        def step(self, images, labels, iteration):
            if iteration == 2 and rank() == int(os.environ.get("WORLD_SIZE", 1)) - 1:
                os.kill(os.getpid(), number)
            return super().step(images, labels, iteration)

    return SignalingTrainer


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    if mode == "steps":
        steps(*arguments)
    elif mode == "networks":
        networks(*arguments)
    else:
        train.Trainer = trainer_with_signal(getattr(signal, mode))
        train.main(arguments)
