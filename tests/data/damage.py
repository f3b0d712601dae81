"""What `test_damage.py` starts: damages files by number, reads each, and counts the outcomes.

A damaged file may take twice the memory of a sound one, measured where Linux tells it.
"""

import io
import json
import random
import signal
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch

from lgermt.data.io import read_scan, write_h5, write_image_like
from lgermt.data.splits import load_split, read_list
from lgermt.data.volume import Volume
from lgermt.data.volume_checks import check_volume
from lgermt.training.checkpoint import load_checkpoint, load_model, resume
from lgermt.training.config import TrainConfig, resolve_config
from lgermt.training.saved_settings import config_to_dict
from lgermt.training.trainer import Trainer
from lgermt.utils.errors import InputError

PATIENCE = 60  # seconds of processor time a file may take before it counts as hung
SMALL = 16  # MB that libraries and allocators may take for any file
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


# how bytes go wrong


def truncated(content, draw):
    return content[: draw.randrange(len(content))]


def flipped(content, draw):
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16, 64))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def header_flipped(content, draw):
    content = bytearray(content)
    for _ in range(draw.choice((1, 2, 4, 8))):
        content[draw.randrange(min(len(content), 2400))] = draw.choice(
            (0, 1, 127, 128, 255, draw.randrange(256))
        )
    return bytes(content)


def bit_flipped(content, draw):
    content = bytearray(content)
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def zeroed(content, draw):
    start = draw.randrange(len(content))
    length = draw.choice((1, 8, 64, 512, 4096))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def shifted(content, draw):
    start, other = draw.randrange(len(content)), draw.randrange(len(content))
    return content[:start] + content[other : other + draw.choice((1, 3, 100))] + content[start:]


def swapped(content, draw):
    length = draw.choice((8, 64, 512))
    one, other = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[:one] + content[other : other + length] + content[one + length :]


BYTES = (truncated, flipped, header_flipped, bit_flipped, zeroed, shifted, swapped)


# how a sound HDF5 file holds the wrong things

ODD = [
    lambda: "text",
    lambda: b"bytes",
    lambda: np.zeros((2, 2)),
    lambda: [1.0, 2.0],
    lambda: [1.0, np.nan, 1.0],
    lambda: [0.0, 1.0, 1.0],
    lambda: [-1.0, 1.0, 1.0],
    lambda: [1e308] * 3,
    lambda: h5py.Empty("f4"),
    lambda: np.array([b"1", b"2", b"3"]),
    lambda: np.array([1j, 2, 3]),
    lambda: np.zeros(3, "f4,i4"),
    lambda: np.arange(1, 10).astype("u1"),
    lambda: np.zeros((0,)),
    lambda: np.array(["a", "b", "c"], dtype=h5py.string_dtype()),
    lambda: 7,
    lambda: np.zeros((4, 4, 4, 2)),
    lambda: np.zeros((4, 4, 4), "c16"),
    lambda: np.zeros((4, 4, 4), bool),
    lambda: np.full((4, 4, 4), 255, "u1"),
    lambda: np.full((4, 4, 4), np.inf),
    lambda: np.full((3, 3, 3), 1e300),
    lambda: np.arange(64).reshape(4, 4, 4).astype("M8[s]").astype("i8"),
]


def odd_attribute(file, draw):
    file.attrs[draw.choice(("spacing", "origin", "direction"))] = draw.choice(ODD)()


def odd_dataset(file, draw):
    name = draw.choice(("image", "label"))
    if name in file:
        del file[name]
    file[name] = draw.choice(ODD)()


def odd_object(file, draw):
    name = draw.choice(("image", "label"))
    if name in file:
        del file[name]
    make = [
        lambda: file.create_group(name),
        lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
        lambda: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
        lambda: file.__setitem__(name, h5py.ExternalLink("missing.h5", "/image")),
        lambda: file.__setitem__(name, np.dtype("f4")),
        lambda: file.create_dataset(name, (10**6, 10**6, 10**6), "f4", chunks=(8, 8, 8)),
        lambda: file.create_dataset(name, (4, 4, 4), h5py.ref_dtype),
        lambda: file.create_dataset(name, (4, 4, 4), h5py.vlen_dtype(np.float32)),
        lambda: file.create_dataset(name, (4, 0, 4), "f4"),
        lambda: file.create_dataset(
            name, (600, 600, 600), "f4", chunks=(8, 8, 8), compression="gzip"
        ),
        lambda: None,
        lambda: file.create_dataset(
            name, (4, 4, 4), "f4", external=[("nowhere.raw", 0, h5py.h5f.UNLIMITED)]
        ),
    ]
    draw.choice(make)()


OBJECTS = (odd_attribute, odd_dataset, odd_object)


def wrong_things(path, draw):
    "Changes a sound file through h5py."
    with h5py.File(path, "r+") as file:
        for _ in range(draw.choice((1, 1, 2))):
            draw.choice(OBJECTS)(file, draw)


def repacked(content, path, damage, draw):
    "A zip archive with sound checksums, one of its members damaged."
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        chosen = draw.choice([name for name in names if name.endswith("data.pkl")] * 3 + names)
        for name in names:
            member = old.read(name)
            new.writestr(name, damage(member, draw) if name == chosen and member else member)
    return f"{damage.__name__} {chosen}"


# sound files to start from


def scans(folder, suffix):
    "Scans of the format, as different inside as the format allows."
    image = np.random.default_rng(0).normal(size=(14, 12, 10)).astype(np.float32)
    label = (image > 1).astype(np.uint8)
    volume = Volume(
        image, label, (1.0, 1.25, 2.5), (3.0, 4.0, 5.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    )
    if suffix != ".h5":
        paths = [folder / f"sound_{kind}{suffix}" for kind in ("image", "label")]
        for path, array in zip(paths, (image, label)):
            write_image_like(path, array, volume)
        return paths
    filters = {"chunks": (4, 4, 4), "compression": "gzip", "shuffle": True, "fletcher32": True}
    published = folder / "sound_published.h5"
    write_h5(published, volume)
    paths = [published]
    for name, version, options in (
        ("plain", "earliest", {}),
        ("filters", "earliest", filters),
        ("latest", "latest", {"chunks": True, "compression": "lzf"}),
    ):
        path = folder / f"sound_{name}.h5"
        with h5py.File(path, "w", libver=version) as file:
            file.create_dataset("image", data=image, **options)
            file.create_dataset("label", data=label, **options)
            file.attrs["spacing"] = volume.spacing
        paths.append(path)
    return paths


TRAINERS = {}  # whether it is ASDNet -> a trainer to resume with


def checkpoints(folder, _):
    "last.pt of a mean teacher and of ASDNet."
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 32, 32, 16, generator=generator)
    labels = torch.zeros(2, 32, 32, 16, dtype=torch.long)
    paths = []
    for method in ("lg-er-mt", "asdnet"):
        config = TrainConfig(
            "phantom",
            folder,
            method,
            labeled=2,
            patch=(32, 32, 16),
            base_channels=1,
            device="cpu",
            precision="fp32",
            iterations=2,
        )
        trainer = TRAINERS[method == "asdnet"] = Trainer(resolve_config(config))
        trainer.step(images, labels, 0)
        state = {
            **trainer.state_dict(),
            "iteration": 1,
            "random": {"seed": 0, "iteration": 1},
            "config": config_to_dict(trainer.config),
        }
        paths.append(folder / f"sound_{method}.pt")
        torch.save(state, paths[-1])
    return paths


def lists(folder, _):
    "A list of scans."
    path = folder / "sound.list"
    path.write_text("".join(f"phantom_{i:03d}\n" for i in range(30)))
    return [path]


# what reads them


def read(path):
    "A scan, checked as training checks it."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = check_volume(read_scan(path), labeled=False)
    assert volume.image.dtype == np.float32 and volume.image.ndim == 3
    assert np.isfinite(volume.image).all()
    if volume.label is not None:
        assert volume.label.dtype == np.uint8 and volume.label.max() <= 1


def resume_run(path):
    "A checkpoint, loaded as --resume and as evaluate do."
    state = load_checkpoint(path)
    trainer = TRAINERS[state["config"].get("method") == "asdnet"]
    try:
        resume(trainer, state, path)
    finally:
        load_model(path, torch.device("cpu"))


def split(path):
    "A list, and the split made of it."
    assert read_list(path)
    path.replace(path.parent / "train.list")
    load_split(path.parent, 2)


KINDS = {
    "h5": (scans, ".h5", read),
    "nrrd": (scans, ".nrrd", read),
    "nii": (scans, ".nii", read),
    "nii.gz": (scans, ".nii.gz", read),
    "checkpoint": (checkpoints, ".pt", resume_run),
    "list": (lists, ".list", split),
}


def damaged(kind, number, sound, path):
    "Damages a copy of one of the sound files: a function of kind and number."
    draw = random.Random(f"{kind} {number}")
    content = draw.choice(sound).read_bytes()
    if kind == "h5" and draw.random() < 0.25:
        path.write_bytes(content)
        wrong_things(path, draw)
        return "object"
    damage = draw.choice(BYTES)
    if kind == "checkpoint" and draw.random() < 0.7:
        return repacked(content, path, damage, draw)
    path.write_bytes(damage(content, draw))
    return damage.__name__


def resident(name):
    "MB of this process: what it has now (VmRSS), or the most it has had (VmHWM)."
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def with_memory(function, *arguments):
    "What a function returns, and the MB it took for a while; 0 where the system does not tell."
    if not PEAK.exists():
        return function(*arguments), 0.0
    PEAK.write_text("5")  # forgets the most it has had
    before = resident("VmRSS")
    result = function(*arguments)
    return result, resident("VmHWM") - before


def outcome_of(reader, path):
    "What comes of a file: read, refused, or what should not have happened."
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        reader(path)
        return "read"
    except InputError as error:
        return "refused" if "\n" not in str(error) else "more than one line"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(kind, first, last, folder):
    "Numbers `first` to `last` - 1; the current one goes to a file, so that a crash can be traced."
    folder = Path(folder)
    make, suffix, reader = KINDS[kind]
    sound, need = make(folder, suffix), 0.0
    for path in sound:
        reader(path)
        kept = path.exists()  # a list that was read has moved
        need = max(need, with_memory(reader, path)[1]) if kept else need
    path, outcomes, largest = folder / f"damaged{suffix}", {}, 0.0
    sound = sound if kind != "list" else lists(folder, suffix)
    for number in range(int(first), int(last)):
        damage = damaged(kind, number, sound, path)
        (folder / "in_hand").write_text(f"{kind} {number} {damage}")
        outcome, memory = with_memory(outcome_of, reader, path)
        largest = max(largest, memory)
        if outcome in ("read", "refused") and memory > 2 * need + SMALL:
            outcome += f", with {memory:.0f} MB"
        if outcome not in ("read", "refused"):
            outcome = f"{number} {damage}: {outcome}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    (folder / "memory").write_text(
        json.dumps({"need": round(need, 1), "largest": round(largest, 1)})
    )
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
