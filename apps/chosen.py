"""What the apps show: a short training on phantoms, or the run whose folder is in RUN."""

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
    "The folder in the environment variable RUN, or None."
    folder = os.environ.get("RUN")
    return Path(folder) if folder else None


def first_scan(config: TrainConfig) -> Volume:
    "The first scan that the run was scored on."
    return load_volumes(config)[2][0]


def around(label: np.ndarray, sides: tuple = SIDES) -> tuple:
    "Slices of a part of a scan around the middle of its annotation."
    slices = []
    for voxels, side, length in zip(np.nonzero(label), sides, label.shape):
        start = int(voxels.mean()) - side // 2
        start = max(0, min(start, length - side))
        slices.append(slice(start, start + side))
    return tuple(slices)


def chosen_run() -> ToyRun:
    "Predictions of student and teacher for a patch."
    folder = run_folder()
    if folder is None:
        return train_toy_run()
    checkpoint, cpu = folder / "last.pt", torch.device("cpu")
    student, config = load_model(checkpoint, cpu, "student")
    teacher, _ = load_model(checkpoint, cpu, "teacher")
    scan = first_scan(config)
    part = around(scan.label)
    image = torch.from_numpy(np.ascontiguousarray(scan.image))
    predictions = []
    for model in (student, teacher):
        p = sliding_window(model, image, config.patch, config.patch)
        predictions.append(p[(slice(None), *part)])
    p_s, p_t = predictions
    return ToyRun(p_s, p_t, scan.label[part], scan.channels[0][part])


def chosen_scan() -> tuple:
    "Image, annotation, spacing (mm) and names of the classes of a scan."
    folder = run_folder()
    if folder is None:
        spacing = (1.9, 1.7, 1.25)
        image, truth = make_phantom((0, 0), (64, 56, 48), spacing)
        return np.asarray(image), np.asarray(truth), spacing, ("atrium",)
    config = load_model(folder / "last.pt", torch.device("cpu"))[1]
    scan = first_scan(config)
    return scan.image, scan.label, scan.spacing, config.classes
