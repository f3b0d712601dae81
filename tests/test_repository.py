"""The repository as a whole: export and README in step with the notebooks, notebooks fit to be read, imports one way."""

import ast
import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from nbdev.clean import clean_nb
from readme import readme

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(ROOT.glob("nbs/**/*.ipynb"))
NOTEBOOKS = LESSONS + [ROOT / "index.ipynb"]
TRAINING = {"lgermt", "torch", "numpy", "scipy", "h5py", "medpy", "tqdm", "tensorboard", "tyro"}
ALONE = ("models.ema", "evaluation.metrics")
KILOBYTE = 1000

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
    subprocess.run([Path(sys.executable).parent / "nbdev_export"], cwd=tmp_path, check=True)
    ours, exported = python_files(ROOT / "lgermt"), python_files(tmp_path / "lgermt")
    differing = [name for name in ours | exported if ours.get(name) != exported.get(name)]
    assert not differing, (
        f"lgermt/ and nbs/ differ in {', '.join(sorted(differing))}: run `make export`"
    )
    assert (tmp_path / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text(), (
        "run `make export`"
    )


def test_the_readme_is_what_index_says():
    files = readme(ROOT / "index.ipynb")
    for name, content in files.items():
        assert (ROOT / name).read_bytes() == content, (
            f"{name} and index.ipynb differ: run `make readme`"
        )
    stray = {f"images/{path.name}" for path in ROOT.glob("images/index_*")} - files.keys()
    assert not stray, f"no longer shown: {', '.join(stray)}"


def test_links_of_the_documents_lead_somewhere():
    for document in (
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "results/README.md")
    ):
        text = document.read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
        missing = [target for target in targets if not (document.parent / target).exists()]
        assert not missing, f"{document.relative_to(ROOT)} links to {', '.join(missing)}"


def test_the_readme_lists_every_lesson():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in LESSONS if f"({path.relative_to(ROOT)})" not in text]
    assert not missing, (
        f"add {', '.join(missing)} to the table of index.ipynb, then run `make readme`"
    )


def test_every_command_and_option_in_the_readme_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {"--help"}
    for command in re.findall(r"python -m lgermt\.(\w+)", text):
        module = importlib.import_module(f"lgermt.{command}")
        assert callable(module.main)
        settings = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
        known |= {
            "--" + field.name.replace("_", "-")
            for kind in settings
            for field in dataclasses.fields(kind)
        }
    assert "--method" in known
    text = re.sub(r"torchrun .*? -m ", "", text)  # its own options
    unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - known
    assert not unknown, f"README.md names {', '.join(unknown)}"


@every_notebook
def test_a_notebook_is_clean(path):
    notebook = read(path)
    cleaned = deepcopy(notebook)
    clean_nb(cleaned)
    assert cleaned == notebook, f"run `.venv/bin/nbdev_clean --fname {path.relative_to(ROOT)}`"
    assert "widgets" not in notebook["metadata"], (
        "execute it with --ExecutePreprocessor.store_widget_state=False"
    )
    views = sum(
        "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
    )
    assert not views, (
        f"{views} stored widgets, which a page without a kernel shows as an error: run `make lessons NAME={path.stem} ARGS=--stored`"
    )
    assert path.stat().st_size < 300 * KILOBYTE
    failed = [
        output["evalue"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    assert not failed, failed


@every_notebook
def test_a_notebook_opens_with_its_title_and_one_line(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \S[^\n]*\n\s*> \S", source(first)), (
        "the first cell is `# Title` and a line `> what it is`"
    )


@every_lesson
def test_a_lesson_stores_its_outputs(path):
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in code), "execute the notebook and keep its outputs"


@every_lesson
def test_a_figure_is_seen_without_a_script(path):
    bundles = [
        output.get("data", {}) for cell in read(path)["cells"] for output in cell.get("outputs", [])
    ]
    figures = [data for data in bundles if "application/vnd.plotly.v1+json" in data]
    assert all("image/png" in data for data in figures), (
        f"no PNG beside a figure: run `make lessons NAME={path.stem} ARGS=--stored`"
    )


def test_no_file_is_large():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an archive without history
        listed = [
            path.relative_to(ROOT)
            for folder in ("nbs", "lgermt", "tests", "results", "images")
            for path in (ROOT / folder).rglob("*")
        ]
    large = [
        str(name)
        for name in listed
        if name and (ROOT / name).is_file() and (ROOT / name).stat().st_size > 300 * KILOBYTE
    ]
    assert not large, f"over 300 kB: {', '.join(large)}"


def module_of(lesson):
    "Name below lgermt of the module a notebook exports, or None."
    found = re.search(
        r"^#\| default_exp (\S+)",
        "\n".join(source(cell) for cell in read(lesson)["cells"]),
        re.MULTILINE,
    )
    return found and found[1]


MODULES = [name for name in map(module_of, LESSONS) if name]  # in the order of the lessons


def imports(module, everywhere=False):
    "Full names a module imports at its top level, or `everywhere` in it; relative ones resolved."
    tree = ast.parse(
        (ROOT / "lgermt" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    )
    names, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"lgermt.{module}".split(".")[: -node.level] if node.level else []
            base = ".".join(base + node.module.split(".") if node.module else base)
            names |= {f"{base}.{alias.name}" for alias in node.names} | {base}
        elif everywhere or not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        ):
            waiting += ast.iter_child_nodes(node)
    return names


def own(names):
    "Those among imported names that are modules of this package."
    return {name.removeprefix("lgermt.") for name in names} & set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_takes_what_is_private_to_another(module):
    private = [
        name
        for name in imports(module, everywhere=True)
        if name.startswith("lgermt.") and name.rpartition(".")[2].startswith("_")
    ]
    assert not private, f"{module} imports {', '.join(private)}"


@pytest.mark.parametrize(
    "module",
    [
        module
        for module in MODULES
        if module in ALONE
        or module.startswith("losses.")
        and module not in ("losses.mixing", "losses.weak_to_strong")
    ],
)
def test_the_building_blocks_know_nothing_of_each_other(module):
    assert not own(imports(module, everywhere=True))


def test_training_needs_few_packages():
    reached, waiting = set(), ["train"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += own(imports(module))
    assert {"models.vnet", "models.ema", "losses.affinity", "training.methods"} <= reached
    for module in sorted(reached):
        outside = (
            {name.split(".")[0] for name in imports(module)}
            - TRAINING
            - set(sys.stdlib_module_names)
        )
        assert not outside, (
            f"lgermt.{module} imports {', '.join(outside)}: import it inside the function that needs it"
        )
