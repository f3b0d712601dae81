"Sections on what goes wrong outside: damaged files, kills, mistakes, random inputs."

import json
import math
import re
import tempfile
from pathlib import Path

import torch
from helpers import TINY, assert_same

from lgermt.data.datasets import write_phantoms
from lgermt.utils.files import read_json, write_json
from trust.common import TESTS, Figures, pytest_run, worker

FORMATS = ("h5", "nrrd", "nii", "nii.gz", "checkpoint", "list")


def damage(size, seed):
    "A damaged file is read or refused in one line: no traceback, hang or crash, little memory."
    outcomes, memory, odd = {}, {}, []
    first = 10_000 + seed % 10**9  # the tests take smaller numbers
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            done = worker("data/damage.py", kind, first, first + size.files, folder)
            if done.returncode:
                in_hand = (Path(folder) / "in_hand").read_text(encoding="utf-8")
                odd.append(f"{in_hand}: ended with {done.returncode}")
                continue
            memory[kind] = read_json(Path(folder) / "memory")
        outcomes[kind] = json.loads(done.stdout)
        odd += [f"{kind} {name}" for name in outcomes[kind] if name not in ("read", "refused")]
    most = [kind["largest"] for kind in memory.values()] or [math.nan]
    refused = sum(found.get("refused", 0) for found in outcomes.values())
    return Figures(
        f"{size.files} damaged files of each of {len(FORMATS)} kinds",
        f"{refused} refused, the damage of the others was harmless; {len(odd)} otherwise; "
        f"at most {max(most):.0f} MB for a file",
        not odd,
        {"first number": first, "outcomes": outcomes, "memory": memory, "odd": odd},
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
