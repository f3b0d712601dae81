"""`make trust`: promises of this project, each tried many times; figures go to results/trust.json.

Inputs are drawn anew every time: `--seed` repeats a run. `--only` measures some sections again
and leaves the others in the file. `--quick` shows in a minute or two that everything runs.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from helpers import ENVIRONMENT, ROOT, TINY, assert_same
from scipy.ndimage import gaussian_filter

from lgermt.data.datasets import write_phantoms
from lgermt.evaluation.metrics import mask_metrics
from lgermt.losses.terms import PRESET_NAMES
from lgermt.training.methods import METHODS
from lgermt.utils.environment import versions
from lgermt.utils.files import read_json, write_json

TESTS = ROOT / "tests"
FORMATS = ("h5", "nrrd", "nii", "nii.gz", "checkpoint", "list")


@dataclass(frozen=True)
class Size:
    "How much is tried."

    shapes: int = 1000
    files: int = 2000  # damaged, per format
    kills: int = 100
    methods: tuple = tuple(METHODS)  # that are killed
    examples: int = 300  # per property
    mistakes: tuple = ()  # names of test files; none: all
    steps: str = "one_step"  # tests of two processes


QUICK = Size(20, 40, 4, ("lg-er-mt",), 5, ("test_systems.py",), "one_step and lg-er-mt")


@dataclass(frozen=True)
class Figures:
    "What a section found."

    tried: str
    found: str
    passed: bool
    numbers: dict


def worker(script, *arguments, **environment):
    "Runs a script of the tests to its end; what it printed."
    command = [sys.executable, TESTS / script, *map(str, arguments)]
    done = subprocess.run(
        command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=7200
    )
    return done


def pytest_run(*arguments, **environment):
    "Runs tests; exit code, output, and how many passed, failed and were skipped."
    path = os.pathsep.join(map(str, (ROOT, TESTS)))
    environment = ENVIRONMENT | {"PYTHONPATH": path} | environment
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    counts = {}
    for word in ("passed", "failed", "error", "skipped"):
        numbers = re.findall(rf"(\d+) {word}", done.stdout)
        counts[word] = int(numbers[-1]) if numbers else 0
    return done, counts


# metrics


def random_masks(rng):
    "Two masks of one random shape that overlap as a good and a bad prediction do."
    shape = tuple(rng.integers(6, 32, 3))
    noise = gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 3))
    other = gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 3))
    share = rng.uniform(0, 1)
    mixed = share * noise / noise.std() + (1 - share) * other / other.std()
    masks = []
    for values in (noise, mixed):
        mask = values > np.quantile(values, rng.uniform(0.5, 0.95))
        masks.append(mask if mask.any() else values == values.max())
    return masks


def metrics_of_medpy(prediction, reference, spacing):
    "The four metrics by the library that the paper's authors call."
    from medpy.metric import binary

    return {
        "dice": binary.dc(prediction, reference),
        "jaccard": binary.jc(prediction, reference),
        "asd": binary.asd(prediction, reference, voxelspacing=spacing),
        "hd95": binary.hd95(prediction, reference, voxelspacing=spacing),
    }


def metrics_of_deepmind(prediction, reference, spacing):
    "Dice, and both distances between surfaces that lie between the voxels."
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {
        "dice": surface_distance.compute_dice_coefficient(reference, prediction),
        "asd": surface_distance.compute_average_surface_distance(distances)[1],
        "hd95": surface_distance.compute_robust_hausdorff(distances, 95),
    }


def metrics(size, seed):
    "Dice, Jaccard, ASD and 95HD are those of medpy; Dice is that of DeepMind's surface-distance."
    rng = np.random.default_rng(seed)
    medpy, deepmind = [], []
    for _ in range(size.shapes):
        prediction, reference = random_masks(rng)
        spacing = tuple(rng.uniform(0.4, 2.5, 3))
        ours = mask_metrics(prediction, reference, spacing)
        for found, library in (
            (medpy, metrics_of_medpy(prediction, reference, spacing)),
            (deepmind, metrics_of_deepmind(prediction, reference, spacing)),
        ):
            found.append({name: abs(ours[name] - value) for name, value in library.items()})
    largest = {name: max(row[name] for row in medpy) for name in medpy[0]}
    dice = max(row["dice"] for row in deepmind)
    typical = {name: float(np.median([row[name] for row in deepmind])) for name in ("asd", "hd95")}
    return Figures(
        f"{size.shapes} pairs of random shapes, random voxel sizes",
        f"largest difference {max(dice, *largest.values()):.2g}; surface-distance puts the surface "
        f"between the voxels, which changes ASD by {typical['asd']:.2f} mm and 95HD by "
        f"{typical['hd95']:.2f} mm (medians)",
        max(dice, *largest.values()) < 1e-9,
        {"medpy": largest, "deepmind dice": dice, "deepmind medians": typical},
    )


# the method


def weights(size, seed):
    "Every term of every method weighs what the paper or its code says."
    from training.test_weights import PAPER_AND_CODE, config_of

    from lgermt.training.config import effective_weights

    count, wrong = 0, []
    for method, terms in PAPER_AND_CODE.items():
        for preset in PRESET_NAMES:
            found = effective_weights(config_of(method, preset))
            expected = {name: pair[preset != "paper"] for name, pair in terms.items()}
            for name in found.keys() | expected.keys():
                count += 1
                if not np.isclose(found.get(name, -1), expected.get(name, -1), rtol=1e-5, atol=0):
                    wrong.append(f"{method} {preset} {name}")
    return Figures(
        f"{count} weights: {len(PAPER_AND_CODE)} methods, {len(PRESET_NAMES)} presets",
        f"{len(wrong)} differ from the table written by hand",
        not wrong and PAPER_AND_CODE.keys() == METHODS.keys(),
        {"weights": count, "wrong": wrong},
    )


def processes(size, seed):
    "A step on two processes is the step on one."
    done, counts = pytest_run("tests/training/test_distributed.py", "-k", size.steps)
    return Figures(
        f"{counts['passed'] + counts['failed']} methods, a step each",
        f"{counts['failed']} differ",
        done.returncode == 0,
        counts,
    )


# what goes wrong outside


def damage(size, seed):
    "A damaged file is read or refused in one line: no traceback, no hang, no crash."
    outcomes, odd = {}, []
    first = 10_000 + seed % 10**9  # the tests take smaller numbers
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            done = worker("data/damage.py", kind, first, first + size.files, folder)
            if done.returncode:
                in_hand = (Path(folder) / "in_hand").read_text(encoding="utf-8")
                odd.append(f"{in_hand}: ended with {done.returncode}")
                continue
        outcomes[kind] = json.loads(done.stdout)
        odd += [f"{kind} {name}" for name in outcomes[kind] if name not in ("read", "refused")]
    refused = sum(found.get("refused", 0) for found in outcomes.values())
    return Figures(
        f"{size.files} damaged files of each of {len(FORMATS)} kinds",
        f"{refused} refused, the damage of the others was harmless; {len(odd)} otherwise",
        not odd,
        {"first number": first, "outcomes": outcomes, "odd": odd},
    )


def wheel(size, seed):
    "The package, built twice, is the same wheel byte for byte, and lists what it was tested with."
    specification = importlib.util.spec_from_file_location("wheel", ROOT / "docs/wheel.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            path = module.build(Path(folder) / str(number))
            contents.append(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".cdx.json")]
            listed = len(json.loads(archive.read(name))["components"])
    text = (ROOT / "requirements-hashed.txt").read_text(encoding="utf-8")
    tested = len(re.findall(r"^[\w.-]+==", text, re.M))
    same = contents[0] == contents[1]
    return Figures(
        "2 builds, a CycloneDX list of packages in each",
        f"{'the same' if same else 'different'} bytes; {listed} of {tested} packages listed",
        same and listed == tested,
        {"sha256": hashlib.sha256(contents[0]).hexdigest(), "listed": listed, "tested": tested},
    )


def learned(out):
    "All that a run has learned: networks, optimisers, iteration."
    state = torch.load(out / "last.pt", weights_only=True)
    return {name: part for name, part in state.items() if name != "config"}


def kills(size, seed):
    "A training that is killed and resumed ends with the bits of one that was left alone."
    shares = [size.kills // len(size.methods)] * len(size.methods)
    for i in range(size.kills % len(size.methods)):
        shares[i] += 1
    with tempfile.TemporaryDirectory() as folder:
        folder, jobs = Path(folder), []
        write_phantoms(folder / "scans", train=4, test=2, shape=(48, 40, 32))
        few = ["--data", str(folder / "scans"), *TINY, "--iterations", "8"]
        few += ["--checkpoint-every", "1"]
        for method, share in zip(size.methods, shares):
            for kind, count in (("whole", 0), (f"killed_{seed}", share)):
                out = str(folder / method / kind)
                jobs.append(["train", out, count, [*few, "--method", method, "--out", out]])
        write_json(folder / "jobs.json", jobs)
        done = worker("commands/kills.py", folder / "jobs.json")
        if done.returncode:
            lines = done.stderr.strip().splitlines()[-1:]
            return Figures(f"{size.kills} kills", f"stopped: {lines}", False, {"error": lines})
        kinds = [kind for job in json.loads(done.stdout) for kind in job]
        other = [name for name in size.methods if not same_run(folder / name, seed)]
    return Figures(
        f"{len(kinds)} kills ({kinds.count('writing')} while a file was being written), "
        f"{len(size.methods)} method{'s' * (len(size.methods) > 1)}",
        f"{len(other)} of the trainings ended otherwise",
        not other and len(kinds) == size.kills,
        {"kills": len(kinds), "writing": kinds.count("writing"), "other": other},
    )


def same_run(folder, seed):
    "Whether the killed run of a method learned what the whole one did, and left nothing behind."
    whole, killed = folder / "whole", folder / f"killed_{seed}"
    try:
        assert_same(learned(whole), learned(killed))
    except AssertionError:
        return False
    scores = [read_json(out / "metrics.json")["mean"] for out in (whole, killed)]
    return scores[0] == scores[1] and not list(killed.glob(".*"))


def mistakes(size, seed):
    "A mistake of the user's is one line and exit code 2, without a traceback."
    files = [TESTS / "commands" / name for name in size.mistakes] or [TESTS / "commands"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mistakes.json"
        done, counts = pytest_run(
            *files, "-m", "not slow", "-p", "count_mistakes", LGERMT_MISTAKES=str(out)
        )
        found = read_json(out)
    return Figures(
        f"{found['tried']} mistakes, with {found['commands']} commands",
        f"{found['traceback']} with a traceback, {counts['failed']} tests failed",
        done.returncode == 0 and found["traceback"] == 0 and found["tried"] > 0,
        found | counts,
    )


def properties(size, seed):
    "What has to hold for every scan, crop, batch and window holds for new random ones."
    done, counts = pytest_run(
        "tests/data/test_properties.py",
        f"--hypothesis-seed={seed}",
        "--hypothesis-show-statistics",
        HYPOTHESIS_PROFILE="explore",
        HYPOTHESIS_EXAMPLES=str(size.examples),
    )
    examples = sum(map(int, re.findall(r"(\d+) passing", done.stdout)))
    return Figures(
        f"{examples} examples of {counts['passed'] + counts['failed']} properties",
        f"{counts['failed']} properties failed",
        done.returncode == 0 and examples > 0,
        counts | {"examples": examples},
    )


SECTIONS = {
    section.__name__: section
    for section in (weights, metrics, properties, processes, mistakes, damage, kills, wheel)
}


def measure(name, size, seed):
    "One section as it is stored."
    start = time.monotonic()
    section = SECTIONS[name]
    figures = section(size, seed)
    return {
        "promise": section.__doc__,
        **vars(figures),
        "passed": bool(figures.passed),  # NumPy's would be stored as a text
        "quick": size == QUICK,
        "seed": seed,
        "date": date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def main(argv=None):
    "Measures, prints and stores; exit code 1 where a promise is broken."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seed", type=int, help="of the random inputs; drawn where it is missing")
    parser.add_argument("--json", type=Path, default=ROOT / "results/trust.json")
    options = parser.parse_args(argv)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    random.seed(seed)
    stored = read_json(options.json)["sections"] if options.json.exists() else {}
    failed = []
    for name in options.only:
        found = measure(name, QUICK if options.quick else Size(), seed)
        stored[name] = found
        verdict = "holds" if found["passed"] else "BROKEN"
        print(f"{name:<11}{verdict}  {found['tried']}: {found['found']}", flush=True)
        failed += [name] * (not found["passed"])
        ordered = {key: stored[key] for key in SECTIONS if key in stored}
        write_json(options.json, {"versions": versions(), "sections": ordered})
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
