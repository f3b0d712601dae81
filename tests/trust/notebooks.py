"The section on notebooks: what they print and draw is what is stored in them."

import base64
import csv
import json
import math
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from helpers import ROOT

from trust.common import TESTS, Figures, last_line, process

TOLERANCE = 1e-3  # relative, where `tolerances.csv` names no other
PLOTLY = "application/vnd.plotly.v1+json"
TEXTS = ("text/markdown", "text/html", "text/plain")  # what a reader sees, if there is one of them
NUMBER = r"(?<![#\w])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?"  # no colour
MACHINE = rf"{NUMBER} ?(?:ms|s|seconds|minutes|hours|it/s|kB|MB|GB)\b"  # time and memory
PROGRAM = """
import sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], 4)
folder = {"metadata": {"path": sys.argv[2]}}
patient = {"timeout": None, "startup_timeout": 900}  # seconds
NotebookClient(book, **patient, store_widget_state=False, resources=folder).execute()
nbformat.write(book, sys.argv[1])
"""


def tolerances():
    "Cells with a tolerance of their own: (notebook, cell) -> tolerance; inf compares nothing."
    with open(TESTS / "trust/tolerances.csv", encoding="utf-8", newline="") as file:
        return {
            (row["notebook"], row["cell"]): float(row["tolerance"]) for row in csv.DictReader(file)
        }


def same_text(one, other, tolerance):
    "Whether two texts have the same words, and numbers that differ by no more than a share."
    if one == other:
        return True
    one, other = (re.sub(MACHINE, "", text) for text in (one, other))
    words = [re.sub(r"[\s-]+", " ", re.sub(NUMBER, "#", text)) for text in (one, other)]
    if words[0] != words[1]:
        return False
    numbers = [re.findall(NUMBER, text) for text in (one, other)]
    pairs = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in zip(*numbers))
    return all(
        math.isclose(a, b, rel_tol=tolerance, abs_tol=last_place(text))
        for (a, b), text in zip(pairs, numbers[0])
    )


def last_place(text):
    "What one unit of the last printed digit is worth: rounding may fall to either side."
    digits, _, exponent = text.replace(",", "").partition("e")
    decimals = len(digits.partition(".")[2])
    return 1.01 * 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent else 0.0


def array_of(value):
    "A list of numbers as plotly stores it: as such, or as bytes in base64."
    if isinstance(value, dict) and "bdata" in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).astype(float)
    if isinstance(value, list) and value and all(isinstance(x, (int, float)) for x in value):
        return np.array(value, float)
    return None


def same_data(one, other, tolerance):
    "Whether two figures show the same, but for a share of the largest number of each list."
    arrays = array_of(one), array_of(other)
    if arrays[0] is not None and arrays[1] is not None:
        if arrays[0].shape != arrays[1].shape:
            return False
        finite = arrays[0][np.isfinite(arrays[0])]
        size = np.abs(finite).max(initial=0)
        return np.allclose(*arrays, rtol=0, atol=tolerance * size, equal_nan=True)
    if isinstance(one, dict) and isinstance(other, dict):
        names = (one.keys() | other.keys()) - {"uid"}
        return all(same_data(one.get(name), other.get(name), tolerance) for name in names)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other)
        return len(one) == len(other) and all(same_data(a, b, tolerance) for a, b in pairs)
    if isinstance(one, str) and isinstance(other, str):
        return same_text(one, other, tolerance)
    if isinstance(one, float) and isinstance(other, float):  # beside a text, as in a colour scale
        return math.isclose(one, other, rel_tol=tolerance)
    return one == other


def contents(outputs):
    "What a cell shows, without widgets: its texts as one, and its figures."
    texts, figures = [], []
    for output in outputs:
        data = output.get("data", {})
        if output["output_type"] == "stream" and output["name"] == "stdout":
            texts.append("".join(output["text"]))
        elif PLOTLY in data:
            figures.append(data[PLOTLY]["data"])
        elif not any("widget" in kind or kind.startswith("image/") for kind in data):
            shown = next((data[kind] for kind in TEXTS if kind in data), "")
            texts.append("".join(shown))
    return "".join(texts), figures


def differing_cells(stored, fresh, name, own):
    "IDs of cells whose outputs differ, and how many were compared."
    different, count = [], 0
    again = {cell["id"]: cell for cell in fresh["cells"]}
    for cell in stored["cells"]:
        if not cell.get("outputs"):
            continue
        tolerance = own.get((name, cell["id"]), TOLERANCE)
        if math.isinf(tolerance) or re.search(r"^#\| *(slow|gpu)\b", "".join(cell["source"]), re.M):
            continue
        (text, figures), (text_again, figures_again) = map(
            contents, (cell["outputs"], again[cell["id"]].get("outputs", []))
        )
        count += 1
        same = same_text(text, text_again, tolerance)
        if len(figures) == len(figures_again):  # a large notebook keeps pictures alone
            same = same and same_data(figures, figures_again, tolerance)
        different += [cell["id"]] * (not same)
    return different, count


def outputs(size, seed):
    "A notebook prints and draws what is stored in it, within the tolerance of each cell."
    paths = sorted(path for path in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_" not in str(path))
    paths = [path for path in paths if not size.notebooks or path.stem in size.notebooks]
    own, different, failed, cells = tolerances(), [], [], 0
    for path in paths:
        stored = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            done = run_copy(copy, path.parent)
            if done.returncode:
                failed.append(f"{path.stem}: {last_line(done)}")
                continue
            fresh = json.loads(copy.read_text(encoding="utf-8"))
        found, count = differing_cells(stored, fresh, path.stem, own)
        different += [f"{path.stem} {cell}" for cell in found]
        cells += count
    return Figures(
        f"{len(paths)} notebooks run again, {cells} cells with outputs compared",
        f"{len(different)} cells differ, {len(failed)} notebooks failed",
        not different and not failed and cells > 0,
        {"different": different, "failed": failed, "cells": cells},
    )


def run_copy(copy, folder):
    "Runs a notebook in place, in the folder of the original; cells that take minutes are skipped."
    notebook = json.loads(copy.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if re.search(r"^#\| *(slow|gpu)\b", source, re.M) or "nbdev_export()" in source:
            cell["metadata"]["tags"] = ["skip-execution"]
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    return process([sys.executable, "-c", PROGRAM, copy, folder], LGERMT_BATCH="1")
