"""What every lesson of the path has: opening, folded set-up, guess, exercises, summary."""

import ast
import csv
import json
import re

import pytest
from helpers import ROOT

PATH = [ROOT / "nbs/00_the_method.ipynb", *sorted((ROOT / "nbs").glob("[0-9]*/*.ipynb"))]


def read_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def text_of(cell):
    return "".join(cell["source"])


def cells_of(path, kind):
    return [cell for cell in read_cells(path) if cell["cell_type"] == kind]


def is_folded(cell):
    return cell["metadata"].get("jupyter", {}).get("source_hidden", False)


def statements(cell):
    "The kinds of statement of a code cell."
    return {type(node) for node in ast.parse(text_of(cell)).body}


def calls(path, name):
    "How often a lesson calls a function of this name."
    trees = [ast.parse(text_of(cell)) for cell in cells_of(path, "code")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sum(getattr(node.func, "id", None) == name for node in nodes)


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_a_lesson_says_what_it_gives_and_asks(path):
    opening = "\n".join(map(text_of, cells_of(path, "markdown")[:2]))
    for part in ("**Afterwards**", "**You need to know**", "glossary.ipynb"):
        assert part in opening, f"the opening lacks {part}"
    minutes = int(re.search(r"\*\*Time:\*\* (\d+) minutes", opening)[1])
    assert 10 <= minutes <= 45


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_a_lesson_asks_for_a_guess_an_answer_and_words(path):
    assert calls(path, "predict_first") >= 1
    assert calls(path, "exercise") >= 2
    text = "\n".join(map(text_of, cells_of(path, "markdown")))
    assert len(re.findall(r"^\*\*In words\.\*\*", text, re.MULTILINE)) == 1
    assert text.count("<details>") == text.count("A model answer") == 1


def test_every_exercise_has_its_own_name():
    names = []
    for path in PATH:
        text = "\n".join(map(text_of, cells_of(path, "code")))
        names += re.findall(r'\bexercise\(\s*"([^"]+)"', text)
    assert len(names) > 100 and len(names) == len(set(names)), names


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_a_lesson_ends_with_three_sentences(path):
    last = text_of(cells_of(path, "markdown")[-1])
    heading, summary = last.split("\n\n")[:2]
    assert heading == "## Summary"
    assert len(re.findall(r"[.!?](?=\s|$)", summary)) == 3, summary


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_set_up_and_checks_are_folded(path):
    cells = read_cells(path)
    setup = next(i for i, cell in enumerate(cells) if text_of(cell).startswith("## Setup"))
    assert cells[setup]["metadata"]["jp-MarkdownHeadingCollapsed"]
    rest = cells[setup + 1 :]
    after = next(i for i, cell in enumerate(rest) if cell["cell_type"] == "markdown")
    assert text_of(rest[after]).startswith("## ")
    for cell in [*cells[:setup], *rest[after:]]:
        if cell["cell_type"] != "code" or text_of(cell).startswith("#| hide"):
            continue
        kinds = statements(cell)
        assert not kinds <= {ast.Import, ast.ImportFrom}, "imports belong to Setup"
        assert "#| default_exp" not in text_of(cell)
        if kinds == {ast.Assert}:
            assert is_folded(cell), text_of(cell)


UNITS = "step|run|second|scan|iteration|voxel|bin|patch|window|batch|axis|epoch|seed|class|line"


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_prose_says_per(path):
    text = "\n".join(map(text_of, cells_of(path, "markdown")))
    counted = rf"\b(?:numbers?|\w+s|ms|s|MB|GB) an? (?:{UNITS})\b(?! (?:is|has|of|in|with|that))"
    found = re.search(rf"\b\d+ {counted}", text)
    assert not found, found[0]


def base(symbol):
    "A symbol without index, exponent, hat and font."
    symbol = re.sub(r"[_^](?:\{[^{}]*\}|\\?\w+)", "", symbol)
    symbol = re.sub(r"\\(?:mathbf|hat|bar|tilde|boldsymbol|lvert|rvert|lVert|rVert)\b", "", symbol)
    return re.sub(r"[\s{}'|]|\(.*\)", "", symbol)


def known_symbols():
    with (ROOT / "nbs/glossary.csv").open(encoding="utf-8", newline="") as file:
        listed = [row["symbol"].split(", ") for row in csv.DictReader(file)]
    return {base(symbol) for symbols in listed for symbol in symbols} - {""}


@pytest.mark.parametrize("path", PATH, ids=lambda path: path.stem)
def test_symbols_of_a_lesson_stand_in_the_glossary(path):
    known = known_symbols() | set("ijklmnrq")  # counters and coordinates, explained in place
    for cell in cells_of(path, "markdown"):
        for line in text_of(cell).splitlines():
            column = re.match(r"\| ((?:\$[^$]+\$(?:, )?)+)", line)
            if column and "| symbol |" in text_of(cell):
                for formula in re.findall(r"\$([^$]+)\$", column[1]):
                    for symbol in re.sub(r"[_^]?\{[^}]*\}", "", formula).split(","):
                        assert base(symbol) in known, f"{symbol} in {line[:60]}"
