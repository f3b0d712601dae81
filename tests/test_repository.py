"""The repository as a whole: export, README, notebooks, style, layers and imports."""

import ast
import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from copy import deepcopy
from pathlib import Path

import pytest
from helpers import ROOT
from nbdev.clean import clean_nb
from readme import readme

from lgermt.training.methods import METHODS
from lgermt.utils.errors import REQUIRED_PACKAGES

BIN = Path(sys.executable).parent
LESSONS = sorted(ROOT.glob("nbs/**/*.ipynb"))
LESSONS = [path for path in LESSONS if ".ipynb_checkpoints" not in path.parts]
NOTEBOOKS = [*LESSONS, ROOT / "index.ipynb"]
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *("data/README.md", "results/README.md", "results/search2/README.md", "docs/checklists.md"),
)
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST = 300_000  # bytes
WIDTH = 100  # characters

every_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
every_lesson = pytest.mark.parametrize(
    "path", LESSONS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def read(path):
    "A notebook."
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    "A cell's text."
    return "".join(cell["source"])


def code_cells(path, exported):
    "The texts of a notebook's exported cells, or of the others."
    cells = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return [text for text in cells if bool(re.search(r"^#\| export", text, re.M)) == exported]


def outputs(path):
    "All outputs of a notebook."
    return [output for cell in read(path)["cells"] for output in cell.get("outputs", [])]


def run(*command, cwd=ROOT):
    "Runs a tool of the environment; its output where it fails."
    program = shutil.which(command[0], path=BIN)
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, capture_output=True, encoding="utf-8", errors="replace"
    )
    assert done.returncode == 0, done.stdout + done.stderr


# export and README


def python_files(folder):
    "Name below `folder` -> text, for every module."
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.py")
    }


def test_the_package_is_what_the_notebooks_export(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    run("nbdev_export", cwd=tmp_path)
    ours, exported = python_files(ROOT / "lgermt"), python_files(tmp_path / "lgermt")
    differing = [name for name in ours | exported if ours.get(name) != exported.get(name)]
    assert not differing, f"{', '.join(sorted(differing))} differ from nbs/: run `make export`"
    same = (tmp_path / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()
    assert same, "pyproject.toml differs from settings.ini: run `make export`"


def test_the_readme_is_what_index_says():
    files = readme(ROOT / "index.ipynb")
    for name, content in files.items():
        same = (ROOT / name).read_bytes() == content
        assert same, f"{name} and index.ipynb differ: run `make readme`"
    stray = {f"images/{path.name}" for path in ROOT.glob("images/index_*")} - files.keys()
    assert not stray, f"no longer shown: {', '.join(stray)}"


def test_the_readme_names_every_chapter():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    chapters = {path.parent.name for path in LESSONS if path.parent.name != "nbs"}
    missing = [name for name in sorted(chapters) if f"(nbs/{name}" not in text]
    assert not missing, f"index.ipynb has no link to {', '.join(missing)}"


def test_every_command_and_option_in_the_readme_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {"--help"}
    for command in re.findall(r"python -m lgermt\.(\w+)", text):
        module = importlib.import_module(f"lgermt.{command}")
        assert callable(module.main)
        settings = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
        fields = [field.name for kind in settings for field in dataclasses.fields(kind)]
        known |= {"--" + name.replace("_", "-") for name in fields}
    assert "--method" in known
    text = re.sub(r"torchrun .*? -m ", "", text)  # its own options
    for method in METHODS.values():
        for term in method.all_terms:
            known |= {f"--{term.name}.{option.name}" for option in dataclasses.fields(term.options)}
    unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", text)) - known
    assert not unknown, f"README.md names {', '.join(unknown)}"


def broken_links(folder, text):
    "Targets of relative links that are not there."
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)  # code has brackets of its own
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", prose)
    return [target for target in targets if not (folder / target).exists()]


def test_links_of_the_documents_lead_somewhere():
    for document in (ROOT / name for name in DOCUMENTS if (ROOT / name).exists()):
        missing = broken_links(document.parent, document.read_text(encoding="utf-8"))
        assert not missing, f"{document.relative_to(ROOT)} links to {', '.join(missing)}"


# notebooks


@every_notebook
def test_links_of_a_notebook_lead_somewhere(path):
    cells = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    missing = broken_links(path.parent, "\n".join(cells))
    assert not missing, ", ".join(missing)


@every_notebook
def test_a_notebook_is_clean(path):
    notebook = read(path)
    cleaned = deepcopy(notebook)
    folded = ["jupyter", "jp-MarkdownHeadingCollapsed"]  # what is folded stays folded
    clean_nb(cleaned, allowed_cell_metadata_keys=folded)
    assert cleaned == notebook, f"run `.venv/bin/nbdev_clean --fname {path.relative_to(ROOT)}`"
    again = f"run `make lessons NAME={path.stem} ARGS=--stored`"
    assert "widgets" not in notebook["metadata"], f"widget states are stored: {again}"
    assert not any(WIDGET in output.get("data", {}) for output in outputs(path)), (
        f"stored widgets, which a page without a kernel shows as an error: {again}"
    )
    assert not any(output.get("name") == "stderr" for output in outputs(path)), (
        f"stored bars, or a traceback with places of one machine: {again}"
    )
    assert path.stat().st_size < LARGEST
    failed = [output["evalue"] for output in outputs(path) if output["output_type"] == "error"]
    assert not failed, failed


@every_notebook
def test_a_notebook_opens_with_its_title_and_one_line(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    opens = re.match(r"# \S[^\n]*\n\s*> \S", source(first))
    assert opens, "the first cell is `# Title` and a line `> what it is`, the module's docstring"


@every_lesson
def test_a_lesson_stores_its_outputs(path):
    if path.parent.name != "handbook":  # some of its pages have nothing to show
        assert outputs(path), f"run `make lessons NAME={path.stem}`"


@every_lesson
def test_a_figure_is_seen_without_a_script(path):
    figures = [output["data"] for output in outputs(path) if PLOTLY in output.get("data", {})]
    unseen = sum("image/png" not in data for data in figures)
    assert not unseen, (
        f"{unseen} figures without PNG: `make lessons NAME={path.stem} ARGS=--stored`"
    )


def exported_names(path):
    "Public functions, classes and constants that a notebook exports."
    names = set()
    for text in code_cells(path, exported=True):
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_nothing_is_exported_and_never_used():
    texts = [
        *(text for path in NOTEBOOKS for text in code_cells(path, exported=True)),
        *(text for path in NOTEBOOKS for text in code_cells(path, exported=False)),
        *(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py")),
    ]
    count = Counter(name for text in texts for name in re.findall(r"\w+", text))
    for path in LESSONS:
        unused = [name for name in exported_names(path) if count[name] < 2]
        assert not unused, f"{path.relative_to(ROOT)} defines {', '.join(unused)} for nobody"


def constant_checks(text):
    "Lines of `assert` statements that cannot fail."
    lines = re.sub(r"^[%!].*$", "pass", text, flags=re.M)
    checks = [node for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Assert)]
    return [
        check.lineno
        for check in checks
        if isinstance(check.test, (ast.Constant, ast.Tuple, ast.List, ast.JoinedStr))
    ]


def test_no_check_is_constant():
    assert constant_checks("x = 1\nassert (x, 'always true')") == [2]
    assert constant_checks("assert True") == [1] and not constant_checks("assert 1 + 1 == 2")
    for path in NOTEBOOKS:
        found = [text for text in code_cells(path, exported=False) if constant_checks(text)]
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"
    for path in ROOT.glob("tests/**/*.py"):
        assert not constant_checks(path.read_text(encoding="utf-8")), path


# style and layers


def test_style():
    run("ruff", "check", "--quiet", ".")
    run("ruff", "format", "--quiet", "--check", ".")


def text_without_encoding(text):
    "Lines that open a text file in the encoding of the machine."
    lines = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg for keyword in node.keywords}
        modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
        binary = any("b" in str(mode) for mode in modes)
        reads_text = name == "read_text" and isinstance(node.func, ast.Attribute)
        opens = isinstance(node.func, ast.Name) and name == "open" and not binary
        if (reads_text or opens) and "encoding" not in keywords:
            lines.append(node.lineno)
    return lines


def test_text_is_read_and_written_in_a_named_encoding():
    assert text_without_encoding("open('a')\npath.read_text()\nopen('a', 'w')") == [1, 2, 3]
    assert not text_without_encoding("open('a', 'rb')\nread_text()\nopen('a', encoding='utf-8')")
    for name, text in python_files(ROOT / "lgermt").items():
        assert not text_without_encoding(text), f"lgermt/{name}: {text_without_encoding(text)}"


def test_layers():
    run("lint-imports")


def test_exported_lines_are_not_wide():
    for path in ROOT.glob("lgermt/**/*.py"):
        text = re.sub(
            r"^__all__ = \[.*?\]$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        wide = [line for line in text.splitlines() if len(line) > WIDTH]
        assert path.name == "_modidx.py" or not wide, f"{path.relative_to(ROOT)}: {wide[0]}"


def test_no_file_is_large():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
        ).stdout.split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # an archive without history
        folders = ("nbs", "lgermt", "tests", "results", "images")
        files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    large = [str(path) for path in files if path.is_file() and path.stat().st_size > LARGEST]
    assert not large, f"over 300 kB: {', '.join(large)}"


# imports


def imports(module, everywhere=False):
    "Full names a module imports at its top level, or `everywhere` in it; relative ones resolved."
    path = ROOT / "lgermt" / f"{module.replace('.', '/')}.py"
    names, waiting = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"lgermt.{module}".split(".")[: -node.level] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names} | {base}
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return names


MODULES = sorted(
    ".".join(path.relative_to(ROOT / "lgermt").with_suffix("").parts)
    for path in ROOT.glob("lgermt/**/*.py")
    if not path.name.startswith("_")
)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_takes_what_is_private_to_another(module):
    names = [name for name in imports(module, everywhere=True) if name.startswith("lgermt.")]
    private = [name for name in names if name.rpartition(".")[2].startswith("_")]
    assert not private, f"{module} imports {', '.join(private)}"


def required():
    "Packages that the bare installation brings, as they are imported."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = re.findall(r"([\w-]+)[><=]\S*", settings["DEFAULT"]["requirements"])
    return set(names)


def test_a_missing_package_of_the_bare_installation_has_its_line():
    assert set(REQUIRED_PACKAGES) == required()


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "prepare"])
def test_a_bare_installation_is_enough_for(command):
    reached, waiting = set(), [command]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            own = {name.removeprefix("lgermt.") for name in imports(module)} & set(MODULES)
            waiting += own
    known = required() | {"lgermt"} | set(sys.stdlib_module_names)
    for module in sorted(reached):
        outside = {name.split(".")[0] for name in imports(module)} - known
        assert not outside, f"lgermt.{module} imports {', '.join(outside)}: use import_optional"
