"""What `test_ranks.py` starts with torchrun: one step of every method, or a training in which one process is stopped or killed."""

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
    block_size=8,
    device="cpu",
    precision="fp32",
    norm="group",
    optimizer="sgd",
)  # instance norm over a bottleneck of 4 voxels amplifies rounding; SGD's first momentum is the gradient


def one_step(method):
    "Gradients, weights and losses of the tenth of twenty steps: what a fresh learner makes of it."
    learner = Trainer(resolve_config(dataclasses.replace(TINY, method=method)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, *TINY.patch, generator=generator)
    annotated = 2 if METHODS[method].unlabeled else 4
    levels = torch.linspace(0, 2, annotated).view(
        -1, 1, 1, 1
    )  # an atrium of another size in each patch
    losses = learner.step(images, (images[:annotated, 0] > levels).long(), 10)
    state = learner.state_dict()
    networks = {name: state[name] for name in ("student", "teacher") if name in state} | state.get(
        "networks", {}
    )
    weights = {
        f"{name}.{key}": value
        for name, network in networks.items()
        for key, value in network.items()
    }
    gradients = {
        f"gradient {i}": slot["momentum_buffer"] for i, slot in state["optimizer"]["state"].items()
    }
    return {**weights, **gradients, **losses}


def steps(file):
    "One step of every method on all processes; rank 0 writes what came out."
    with process_group("cpu"):
        results = {method: one_step(method) for method in METHODS}
        if rank() == 0:
            torch.save(results, file)


def meets(number):
    "A learner that sends its own process a signal in its third step, if that is the last rank."

    class Struck(Trainer):
        def step(self, images, labels, iteration):
            if iteration == 2 and rank() == int(os.environ.get("WORLD_SIZE", 1)) - 1:
                os.kill(os.getpid(), number)
            return super().step(images, labels, iteration)

    return Struck


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    if mode == "steps":
        steps(*arguments)
    else:
        train.Trainer = meets(getattr(signal, mode))
        train.main(arguments)
