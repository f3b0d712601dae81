"""Which scans should be annotated? A copy of a data folder with other scans at its list's head.

`python results/search2/choose_scans.py DATA OUT --seed 0` draws the annotated scans;
`--checkpoint RUN` takes those that differ most for the network of that run instead.
The scans are linked, not copied. The held-out scans at the end of the list stay where they are.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgermt.data.datasets import data_folder, load_scan
from lgermt.data.patches import pad_to
from lgermt.data.splits import find_list, read_list
from lgermt.training.checkpoint import load_model
from lgermt.utils.files import write_text


def sides_for(
    shape: tuple[int, ...],  # voxels per axis
    divisor: int,  # of the network
) -> list[int]:
    "The least sides that the network takes."
    return [-(-side // divisor) * divisor for side in shape]


def scan_feature(
    model: Callable,  # a V-Net in evaluation mode
    image: np.ndarray,  # (K, X, Y, Z) or (X, Y, Z)
) -> Tensor:  # (channels,)
    "Mean over the whole scan of the features at the bottleneck."
    image = torch.as_tensor(image).float().reshape(1, -1, *image.shape[-3:])
    padded, _ = pad_to(image, sides_for(image.shape[-3:], model.divisor))
    return model.encode(padded)[-1].mean((0, 2, 3, 4))


def most_different(
    features: Tensor,  # (scans, channels)
    count: int,
) -> list[int]:  # indices, in the order of their choice
    """Greedy k-centre (Sener and Savarese, ICLR 2018): the scan in the middle first, then always
    the scan that lies farthest from all that are chosen. Channels count by their spread."""
    features = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    chosen = [int(features.norm(dim=1).argmin())]
    while len(chosen) < count:
        nearest = torch.cdist(features, features[chosen]).amin(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.list")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--count", type=int, default=8, help="scans to annotate")
    parser.add_argument("--hold-out", type=int, default=16, help="scans at the end of the list")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn scans")
    parser.add_argument("--checkpoint", type=Path, help="run whose network compares the scans")
    options = parser.parse_args()
    ids = read_list(find_list(options.data, "train.list"))
    pool, held_out = ids[: -options.hold_out], ids[-options.hold_out :]
    if options.checkpoint:
        model, _ = load_model(options.checkpoint, "cpu")
        with torch.inference_mode():
            features = [
                scan_feature(model, load_scan(options.data, case, labeled=False).image)
                for case in pool
            ]
        chosen = most_different(torch.stack(features), options.count)
    else:
        generator = np.random.default_rng(options.seed)
        chosen = generator.choice(len(pool), options.count, replace=False).tolist()
    head = [pool[index] for index in chosen]
    others = [case for case in pool if case not in head]
    options.out.mkdir(parents=True)
    for case in ids:
        (options.out / case).symlink_to((data_folder(options.data) / case).resolve())
    write_text(options.out / "train.list", "\n".join([*head, *others, *held_out]) + "\n")
    print("annotated:", *head)


if __name__ == "__main__":
    main()
