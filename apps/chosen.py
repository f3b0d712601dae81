"""What the apps show: a short training on phantoms, or the run whose folder is in RUN."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lgermt.data.phantom import make_phantom
from lgermt.data.volume import Volume
from lgermt.evaluation.scoring import segment
from lgermt.evaluation.sliding_window import sliding_window
from lgermt.training.checkpoint import load_model
from lgermt.training.config import TrainConfig
from lgermt.training.run_data import load_volumes
from lgermt.viz.toy_run import ToyRun, train_toy_run

SIDES = (64, 64, 48)  # of the part of a scan that the explorers show, at most
CPU = torch.device("cpu")
os.chdir(Path(__file__).resolve().parent.parent)  # phantoms are written where `make train` does


def run_folder() -> Path | None:
    "The folder in the environment variable RUN, or None."
    folder = os.environ.get("RUN")
    return Path(folder) if folder else None


def with_data(config: TrainConfig, run: Path) -> TrainConfig:
    "The settings of a run; a relative folder of data is looked for here and above the run."
    for base in (Path.cwd(), *run.resolve().parents):
        if (base / config.data).is_dir():
            return replace(config, data=str(base / config.data))
    return config  # the phantom's name, or what loading explains


def first_scan(config: TrainConfig, run: Path) -> Volume:
    "The first scan that the run was scored on."
    return load_volumes(with_data(config, run))[2][0]


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
    checkpoint = folder / "last.pt"
    student, config = load_model(checkpoint, CPU, "student")
    teacher, _ = load_model(checkpoint, CPU, "teacher")
    scan = first_scan(config, folder)
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
    config = load_model(folder / "last.pt", CPU)[1]
    scan = first_scan(config, folder)
    return scan.image, scan.label, scan.spacing, config.classes


def chosen_prediction() -> tuple:
    "Image, annotation, predicted mask, spacing (mm), names of the classes and of the channels."
    folder = run_folder()
    if folder is None:
        run = train_toy_run()
        spacing = tuple(extent / side for extent, side in zip((120, 90, 60), run.label.shape))
        return run.image, run.label, run.p_s[-1].argmax(0), spacing, ("atrium",), ()
    student, config = load_model(folder / "last.pt", CPU, "student")
    scan = first_scan(config, folder)
    config = replace(config, stride=config.patch)  # windows side by side: seconds, not minutes
    prediction = segment(student, scan.image, config)
    return scan.image, scan.label, prediction, scan.spacing, config.classes, config.channels


def small_training() -> tuple:
    "Settings of a training that learns within minutes, and the scan that it is looked at on."
    config = TrainConfig(
        data="phantom",
        out=Path(tempfile.mkdtemp(), "live"),
        labeled=4,
        iterations=150,
        patch=(48, 48, 32),
        base_channels=4,
        optimizer="adamw",
        learning_rate=0.01,
        ema_decay=0.9,
        dropout=0.2,
        device="cpu",
    )
    return config, load_volumes(config)[2][0]
