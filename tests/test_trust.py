"""What the project says of itself: workflow, citation, checklists, and that `make trust` runs."""

import ast
import base64
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import ROOT, needs_posix
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from trust import __main__ as trust_main
from trust import common, mutate, notebooks, run_notebook, science, supply
from trust import tests as trust_tests

from lgermt.utils.files import read_json
from lgermt.viz.figures import COLORS

WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
PACKAGE = sorted((ROOT / "lgermt").rglob("*.py"))


def text_of(name):
    "A file of the repository."
    return (ROOT / name).read_text(encoding="utf-8")


# the workflow


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_may_only_read(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_the_workflow_covers_what_is_supported():
    jobs = yaml.safe_load(text_of(".github/workflows/test.yml"))["jobs"]
    matrix = jobs["quick"]["strategy"]["matrix"]
    systems = {name.split("-")[0] for name in matrix["system"]}
    assert systems == {"ubuntu", "macos", "windows"}
    assert matrix["python"][0] == SETTINGS["min_python"]
    tried = {*matrix["python"], *jobs["everything"]["strategy"]["matrix"]["python"]}
    minors = sorted(int(version.partition(".")[2]) for version in tried)
    assert minors == list(range(minors[0], minors[-1] + 1))  # none between is left out
    (torch,) = [
        r for r in map(Requirement, shlex.split(SETTINGS["requirements"])) if r.name == "torch"
    ]
    oldest = matrix["include"][0]["torch"]
    assert str(torch.specifier) == f">={'.'.join(oldest.split('.')[:2])}"
    steps = " ".join(step.get("run", "") for step in jobs["quick"]["steps"])
    assert '-m "not slow"' in steps and "-c constraints.txt" in steps


def test_no_pin_excludes_the_oldest_python():
    oldest = {"python_version": SETTINGS["min_python"]}
    for line in text_of("constraints.txt").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker and not pin.marker.evaluate(oldest):
            continue
        try:
            found = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:  # belongs to `make trust`
            continue
        if found["Version"].split("+")[0] in str(pin.specifier):
            needs = SpecifierSet(found.get("Requires-Python") or "")
            assert needs.contains(f"{SETTINGS['min_python']}.99"), f"{line} needs Python {needs}"


def test_hashes_are_there_for_every_tested_version():
    text = text_of("requirements-hashed.txt")
    entries = re.split(r"^(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.M), flags=re.M)
    hashed = {}
    for entry in filter(None, entries):
        requirement = Requirement(entry.split(" \\")[0].strip())
        assert "--hash=sha256:" in entry, requirement
        hashed[re.sub("[-_.]+", "-", requirement.name).lower()] = str(requirement.specifier)
    for line in text_of("constraints.txt").partition("# make trust and")[0].splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert hashed[pin.name.lower()] == str(pin.specifier), f"{line}: write the hashes anew"


# words


def test_the_citation_names_this_version():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == SETTINGS["version"]
    for part in (citation, citation["preferred-citation"]):
        assert part["title"] and part["authors"]


def test_every_target_of_make_has_its_plain_commands():
    targets = set(re.findall(r"^([a-z]+):.*##", text_of("Makefile"), re.M)) - {"help"}
    section = text_of("CONTRIBUTING.md").partition("## Without make")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", section, re.M))
    assert rows.keys() == targets
    makefile = text_of("Makefile")
    for target in ("lab", "progress", "docs", "lessons", "export", "readme", "pictures", "app"):
        recipe = re.search(rf"^{target}:.*?(?=^\S|\Z)", makefile, re.M | re.S)[0]
        program = re.search(r"`(?:python -m |python )?([\w/.]+)", rows[target])[1]
        assert program == "python" or program in recipe, target
    values = dict(re.findall(r"^([A-Z_]+) = (.+)$", makefile, re.M))
    names = ("DATA", "METHOD", "PRESET", "LABELED", "ITERATIONS", "PATCH", "BASE_CHANNELS")
    for name in (*names, "LEARNING_RATE", "VALIDATE_EVERY", "OUT", "SEED"):
        option = f"--{name.lower().replace('_', '-')} {values[name]}"
        assert option in rows["train"], option


def test_what_security_says_is_so():
    text = text_of("SECURITY.md")
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / name).exists(), name
    loads = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads.append({k.arg: ast.unparse(k.value) for k in node.keywords})
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads"}, path
                assert "urlopen" not in name and "requests." not in name, path
    assert [keywords["weights_only"] for keywords in loads] == ["True"]  # in one place
    from lgermt.training.config import TrainConfig

    assert "plugin" in TrainConfig.__dataclass_fields__
    assert "Its code is run." in text_of("lgermt/training/config.py")


# SPEC 0, 3, 7 and 8


def test_what_the_checklist_says_of_the_specs_has_tests():
    rows = re.findall(r"^\| \[\d\]\(.*spec-000\d.*$", text_of("docs/checklists.md"), re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        _, _, kept, _, tests, _ = (cell.strip() for cell in row.split("|"))
        names = re.findall(r"`(test_\w+)`", tests)
        assert kept in ("yes", "in part", "no")
        assert names or kept == "no", row
        for name in names:
            assert callable(globals()[name])


def test_one_oldest_python():
    versions = [SETTINGS["min_python"]]
    matrix = yaml.safe_load(text_of(".github/workflows/test.yml"))["jobs"]["quick"]["strategy"]
    versions.append(min(matrix["matrix"]["python"], key=lambda text: int(text.split(".")[1])))
    versions += re.findall(r"Python (3\.\d+) and later", text_of("docs/checklists.md"))
    assert len(versions) == 3 and len(set(versions)) == 1


# what eyes without green or without red receptors see of linear RGB (Machado et al. 2009)
COLOUR_BLIND = np.array(
    [
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    ]
)


def distance_for_the_colour_blind(one, other):
    "How far apart two colours are for them, in RGB of 0 to 1: the smaller of both kinds."
    colours = np.array(
        [[int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)] for text in (one, other)]
    )
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("kij,cj->kci", COLOUR_BLIND, linear), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return np.linalg.norm(seen[:, 0] - seen[:, 1], axis=1).min()


def test_colours_of_figures_differ_for_the_colour_blind():
    together = (
        ("truth", "prediction", "error"),
        ("student", "teacher"),
        ("supervised", "consistency", "entropy", "local", "global"),
    )
    for names in together:
        for one, other in itertools.combinations(names, 2):
            assert distance_for_the_colour_blind(COLORS[one], COLORS[other]) > 0.15, (one, other)
    assert distance_for_the_colour_blind("#B02020", "#506010") < 0.15  # a red and a green


def test_pictures_of_the_readme_have_texts():
    pictures = re.findall(r"!\[(.*?)\]\(", text_of("README.md"))
    assert pictures and all(len(words.split()) > 3 for words in pictures)


GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "BitGenerator"}


def global_draws(text):
    "Calls that draw from, or seed, a generator that all share."
    tree, guarded, found = ast.parse(text), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0]):
            guarded |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and "random" in {alias.name for alias in node.names}:
            found.append("random")
        if not isinstance(node, ast.Call) or id(node) in guarded:
            continue
        name = ast.unparse(node.func)
        numpy_function = re.match(r"np\.random\.(\w+)", name)
        if numpy_function and numpy_function[1] not in GENERATORS:
            found.append(name)
        if name in {"torch.manual_seed", "torch.seed"}:
            found.append(name)
        drawn = {"torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.normal"}
        if name in drawn and "generator" not in {keyword.arg for keyword in node.keywords}:
            found.append(name)
    return found


def test_no_module_draws_from_a_global_generator():
    assert global_draws("import random\nnp.random.rand(3)\ntorch.randn(2)") == [
        "random",
        "np.random.rand",
        "torch.randn",
    ]
    for path in PACKAGE:
        if path.parent.name != "bench":  # times processes of its own
            found = global_draws(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {', '.join(found)}"


@pytest.mark.slow
def test_a_wheel_built_twice_is_the_same_byte_for_byte(tmp_path):
    wheels = []
    for number in range(2):
        copy = tmp_path / f"copy_{number}"
        copy.mkdir()
        for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(ROOT / name, copy / name)
        shutil.copyfile(ROOT / "MANIFEST.in", copy / "MANIFEST.in")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            ROOT / "lgermt", copy / "lgermt", ignore=ignored, copy_function=shutil.copyfile
        )
        for path in copy.rglob("*"):
            os.utime(path, (10**9 + 10**6 * number,) * 2)  # the clock does not count
        code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        environment.pop("PYTHONPATH", None)
        subprocess.run(
            [sys.executable, "-c", code], cwd=copy, env=environment, check=True, capture_output=True
        )
        (wheel,) = Path(copy, "dist").glob("*.whl")
        wheels.append((wheel.name, wheel.read_bytes()))
    assert wheels[0] == wheels[1]


# make trust


def a_section(name, passed, before=lambda: None):
    "A section of `make trust` that finds this."

    def section(size, seed):
        before()
        return common.Figures("one", f"with seed {seed}", passed, {})

    section.__name__, section.__doc__ = name, f"Promise {name}."
    return section


def measure_all(sections, path, monkeypatch, *arguments):
    "Runs `make trust` with these sections; its exit code and what it stored."
    named = {section.__name__: section for section in sections}
    monkeypatch.setattr(trust_main, "SECTIONS", named)
    with pytest.raises(SystemExit) as stop:
        trust_main.main(["--seed", "7", "--json", str(path), *arguments])
    return stop.value.code, read_json(path)["sections"]


def test_sections_are_measured_two_at_a_time_and_stored_in_their_order(tmp_path, monkeypatch):
    meeting = threading.Barrier(2, timeout=60)  # neither goes on before the other has come
    pair = [a_section(name, True, meeting.wait) for name in ("a", "b")]
    run = tmp_path / "trust.json", monkeypatch, "--workers", "2"
    code, stored = measure_all([*pair, a_section("c", True)], *run)
    assert code == 0 and list(stored) == ["a", "b", "c"]
    assert stored["c"]["found"] == "with seed 7" and stored["c"]["promise"] == "Promise c."
    known = {"a": {"minutes": 1}, "b": {"minutes": 3}}
    assert trust_main.longest_first("abc", known) == ["c", "b", "a"]


def test_exit_code_of_promises(tmp_path, monkeypatch, capsys):
    holds, unknown, broken = (a_section(f"{passed}", passed) for passed in (True, None, False))
    run = tmp_path / "trust.json", monkeypatch
    assert measure_all([holds, unknown], *run)[0] == 0
    assert "NOT KNOWN" in capsys.readouterr().out
    assert measure_all([holds, unknown, broken], *run)[0] == 1

    def stop():
        raise OSError("an error of ours")

    code, stored = measure_all([holds, a_section("None", True, stop), broken], *run)
    assert code == 1 and list(stored) == ["True", "False"]  # an older figure would be a lie
    assert "an error of ours" in capsys.readouterr().err
    code, stored = measure_all([holds, broken], *run, "--only", "True")
    assert code == 0 and list(stored) == ["True", "False"]


def test_a_broken_promise_is_noticed(monkeypatch):
    size = common.Size(shapes=3)
    assert science.weights(size, 0).passed
    if importlib.util.find_spec("surface_distance"):
        assert science.metrics(size, 0).passed
    other = {"dice": 1, "asd": 0, "hd95": 0, "surface_dice": 0}
    monkeypatch.setattr(science, "metrics_of_deepmind", lambda *_: other)
    assert not science.metrics(size, 0).passed
    monkeypatch.setattr("training.test_weights.config_of", lambda *_: None)
    monkeypatch.setattr("lgermt.training.config.effective_weights", lambda _: {"supervised": 2})
    assert not science.weights(size, 0).passed


FUNCTION = """#| export
def clip(x: int = 1) -> int | None:
    "At most 9."
    if x > 9:
        return 9
    log(f"{x + 1}")
    return x * 2
"""


def test_mutants_have_one_fault_each():
    found = [(before, after) for _, before, after, _ in mutate.mutants(FUNCTION)]
    assert found == [
        ("def clip(x: int=1) -> int | None:", "def clip(x: int=2) -> int | None:"),
        ("if x > 9:", "if not x > 9:"),
        ("if x > 9:", "if x >= 9:"),
        ("if x > 9:", "if x > 10:"),
        ("return 9", "return 10"),
        ("log(f'{x + 1}')", "None"),
        ("return x * 2", "return x / 2"),
        ("return x * 2", "return x * 3"),
    ]
    sources = [source for *_, source in mutate.mutants(FUNCTION)]
    assert len(set(sources)) == len(sources)
    assert "annotation" not in dict.fromkeys(sources) and "int | None" in sources[0]


@needs_posix
def test_a_fault_without_a_check_survives(tmp_path):
    cells = {
        "first": "double = 2\nfound = []",
        "second": "#| export\ndef twice(x):\n    return double * x\n\n\nlimit = 9",
        "third": "assert twice(3) == 6 and not found\nfound.append(1)",
    }
    found = [("second", *mutant) for mutant in mutate.mutants(cells["second"])]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": []}), encoding="utf-8")
    script = "import sys, json; from pathlib import Path; from trust import mutate\n"
    script += "path, cells, found = json.loads(sys.argv[1])\n"
    script += "print(json.dumps(list(mutate.tried(Path(path), cells, found, 60))))"
    given = json.dumps([str(tmp_path / "a.ipynb"), cells, found])
    done = common.process([sys.executable, "-c", script, given])
    assert done.returncode == 0, done.stderr
    survivors = {mutant["after"]: mutant["survives"] for mutant in json.loads(done.stdout)}
    assert survivors == {"return double / x": False, "limit = 10": True}


def test_every_survivor_has_a_reason_and_is_a_mutant():
    for (module, *key), reason in trust_tests.explained().items():
        cells = run_notebook.code_cells(mutate.notebook_of(module))
        exported = [source for source in cells.values() if source.startswith("#| export")]
        known = [list(mutant[:3]) for source in exported for mutant in mutate.mutants(source)]
        assert key in known, f"{module}: no longer a mutant: {key}"
        assert len(reason.split()) > 3, key


def test_outputs_are_compared_with_a_tolerance():
    same = notebooks.same_text
    assert same("Dice 0.912, 3 ms", "Dice 0.9121, 40 ms", 1e-3)
    assert same("0.12", "0.13", 0) and not same("0.12", "0.14", 0)  # rounded to either side
    assert not same("Dice 0.912", "Dice 0.93", 1e-3)
    assert not same("Dice 0.912", "ASD 0.912", 1e-3)
    assert not same("12 scans", "13 scans", 1e-3)
    assert not same("#1e8449", "#1e844a", 1e-3)  # colours, not numbers
    figure = {"type": "scatter", "y": [1.0, 2.0, 3.0], "uid": "a"}
    assert notebooks.same_data(figure, {**figure, "uid": "b", "y": [1.0, 2.002, 3.0]}, 1e-3)
    assert not notebooks.same_data(figure, {**figure, "y": [1.0, 2.1, 3.0]}, 1e-3)
    assert not notebooks.same_data(figure, {**figure, "type": "bar"}, 1e-3)
    bytes_of = base64.b64encode(np.array([1.0, 2.0, 3.0]).tobytes()).decode()
    packed = {**figure, "y": {"dtype": "f8", "bdata": bytes_of}}
    assert notebooks.same_data(figure, packed, 1e-3)
    assert notebooks.same_data([1 / 11, "black"], [1 / 11 + 1e-17, "black"], 1e-3)
    assert not notebooks.same_data([0.09, "black"], [0.11, "black"], 1e-3)


def test_a_changed_table_is_a_changed_output():
    def cell(table):
        data = {"text/plain": "<IPython.core.display.Markdown object>", "text/markdown": table}
        output = {"output_type": "execute_result", "data": data}
        return {"cells": [{"id": "a", "source": "", "outputs": [output]}]}

    stored = cell("| Dice | 90.1 |")
    assert notebooks.differing_cells(stored, cell("| Dice | 90.1 |"), "metrics", {}) == ([], 1)
    assert notebooks.differing_cells(stored, cell("| Dice | 80.1 |"), "metrics", {}) == (["a"], 1)


def test_cells_with_a_tolerance_of_their_own_exist():
    paths = {path.stem: path for path in ROOT.glob("nbs/**/*.ipynb")}
    for name, cell in notebooks.tolerances():
        assert cell in run_notebook.code_cells(paths[name]), (name, cell)


def test_advisories_that_are_not_reached_are_not_passed(monkeypatch):
    def answer(stdout):
        said = subprocess.CompletedProcess([], 1, stdout, "no connection")
        monkeypatch.setattr(supply, "module_run", lambda *_: said)
        return supply.audit(common.QUICK, 0)

    assert answer("").passed is None and "not reached" in answer("").found
    package = {"name": "numpy", "version": "2", "vulns": []}
    assert answer(json.dumps({"dependencies": [package]})).passed is True
    skipped = {"name": "scipy", "skip_reason": "not found"}
    found = answer(json.dumps({"dependencies": [package, skipped]}))
    assert found.passed is None and "not reached for 1" in found.found
    package["vulns"] = [{"id": "X-1"}]
    assert answer(json.dumps({"dependencies": [package]})).passed is False


def test_an_exported_cell_counts_as_lines_of_its_module(tmp_path):
    path = ROOT / "nbs/05_training/01_methods.ipynb"
    cells = run_notebook.code_cells(path)
    module = run_notebook.module_file(cells)
    lines = module.read_text(encoding="utf-8").splitlines()
    starts = run_notebook.first_lines(module)
    assert len(starts.keys() & cells.keys()) > 3
    for name in starts.keys() & cells.keys():
        code = re.sub(r"\A(#\|.*\n|\s*\n)+", "", cells[name]).splitlines()
        assert lines[starts[name] - 1] == code[0] or "import" in code[0]
