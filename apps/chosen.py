"""What the apps show: a short training on the phantom, or the run whose folder is in the environment variable RUN."""

import os
from pathlib import Path

import numpy as np
import torch

from lgermt.data.phantom import make_phantom
from lgermt.data.volume import Volume
from lgermt.evaluation.sliding_window import sliding_window
from lgermt.train import load_volumes
from lgermt.training.checkpoint import load_model
from lgermt.training.config import TrainConfig
from lgermt.viz.toy_run import ToyRun, train_toy_run

SIDES = (64, 64, 48)  # of the part of a scan that the explorers show, at most


def run_folder() -> Path | None:
    "The folder asked for, or None."
    return Path(os.environ["RUN"]) if os.environ.get("RUN") else None


def first_scan(config: TrainConfig) -> Volume:
    "The first scan that the run was scored on."
    return load_volumes(config)[2][0]


def around(label: np.ndarray, sides: tuple = SIDES) -> tuple:
    "Slices of a part of a scan around the middle of its annotation."
    middle = [int(axis.mean()) for axis in np.nonzero(label)]
    starts = [
        max(0, min(m - side // 2, length - side))
        for m, side, length in zip(middle, sides, label.shape)
    ]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides))


def chosen_run() -> ToyRun:
    "What student and teacher say of a patch."
    if (folder := run_folder()) is None:
        return train_toy_run()
    networks = [
        load_model(folder / "last.pt", torch.device("cpu"), name) for name in ("student", "teacher")
    ]
    config = networks[0][1]
    scan = first_scan(config)
    part = around(scan.label)
    image = np.ascontiguousarray(scan.image)
    with torch.inference_mode():
        p_s, p_t = (
            sliding_window(model, torch.from_numpy(image), config.patch, config.patch)[
                (slice(None), *part)
            ].clone()
            for model, _ in networks
        )
    return ToyRun(p_s, p_t, scan.label[part], scan.image[part])


def chosen_scan() -> tuple:
    "Image, annotation and spacing (mm) of a scan."
    if (folder := run_folder()) is None:
        spacing = (1.9, 1.7, 1.25)
        image, truth = make_phantom((0, 0), (64, 56, 48), spacing)
        return np.asarray(image), np.asarray(truth), spacing
    scan = first_scan(load_model(folder / "last.pt", torch.device("cpu"))[1])
    return scan.image, scan.label, scan.spacing
