"""`test_ranks.py` starts this: one step of every method, or a training with a signal to a rank."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from lgermt import train
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


def one_step(method):
    "Gradients, weights and losses of the tenth of twenty steps, made by a fresh trainer."
    trainer = Trainer(resolve_config(dataclasses.replace(TINY, method=method)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, *TINY.patch, generator=generator)
    labeled = 2 if METHODS[method].unlabeled else 4
    levels = torch.linspace(0, 2, labeled).view(-1, 1, 1, 1)  # an atrium of another size per patch
    losses = trainer.step(images, (images[:labeled, 0] > levels).long(), 10)
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
    else:
        train.Trainer = trainer_with_signal(getattr(signal, mode))
        train.main(arguments)
