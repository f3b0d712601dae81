"Sections on the tests themselves: what they reach, and which faults they find."

import csv
import json
import sys
import tempfile
from pathlib import Path

from helpers import ROOT

from trust.common import TESTS, Figures, last_line, module_run, process

FORM = ("test_notebooks.py", "test_repository.py")  # notebooks run below; the form of files
STATEMENTS, BRANCHES = 90, 80  # percent that the tests have to reach
SETTINGS = """[run]
branch = true
parallel = true
patch = subprocess
concurrency =
    thread
    multiprocessing
source = {package}
omit = */_modidx.py
data_file = {data}
"""


def reached(totals, kind):
    "Percent of the statements or branches that ran."
    names = {"statements": ("covered_lines", "num_statements")}
    covered, number = names.get(kind, ("covered_branches", "num_branches"))
    return round(100 * totals[covered] / totals[number], 1)


def coverage(size, seed):
    "Tests reach 90 percent of the statements and 80 percent of the branches."
    paths = sorted(path for path in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_" not in str(path))
    paths = [path for path in paths if not size.notebooks or path.stem in size.notebooks]
    tests = [ROOT / name for name in size.tests]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "coverage.ini"
        data = Path(folder) / "data"
        settings.write_text(SETTINGS.format(package=ROOT / "lgermt", data=data), encoding="utf-8")
        program = [sys.executable, "-m", "coverage"]
        count = [*program, "run", f"--rcfile={settings}", "-m"]
        pytest = [*count, "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
        pytest += [f"--ignore={TESTS / name}" for name in FORM]
        runs = {"tests": pytest}
        runs |= {path.stem: [*count, "trust.run_notebook", path] for path in paths}
        for name, command in runs.items():
            done = process(command)
            if done.returncode:
                failed.append(f"{name}: {last_line(done)}")
        process([*program, "combine", f"--rcfile={settings}"])
        written = Path(folder) / "coverage.json"
        done = process([*program, "json", f"--rcfile={settings}", "-o", written])
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            return Figures("coverage.py", f"stopped: {lines[-1:]}", False, {"error": lines[-5:]})
        found = json.loads(written.read_text(encoding="utf-8"))
    statements, branches = (reached(found["totals"], kind) for kind in ("statements", "branches"))
    whole = not size.notebooks and size.tests == ("tests",)
    enough = statements >= STATEMENTS and branches >= BRANCHES if whole else statements > 0
    files = {
        str(Path(name).relative_to(ROOT)) if Path(name).is_absolute() else name: [
            reached(file["summary"], "statements")
        ]
        for name, file in found["files"].items()
        if file["summary"]["num_statements"]
    }
    return Figures(
        f"fast tests and {len(paths)} notebooks",
        f"{statements} % of {found['totals']['num_statements']} statements and {branches} % of "
        f"{found['totals']['num_branches']} branches ran; {len(failed)} runs failed",
        enough and not failed,
        {"statements": statements, "branches": branches, "failed": failed, "files": files},
    )


def explained():
    "Mutants that no check can or need find: (module, function, before, after) -> reason."
    with open(TESTS / "trust/survivors.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = ("module", "function", "before", "after")
    return {tuple(row[key] for key in keys): row["reason"] for row in rows}


def mutants(size, seed):
    "A fault put into losses, metrics or schedules is found by their notebook, or is harmless."
    reasons = explained()
    found, harmless, unexplained = {}, 0, []
    for module in size.mutated:
        done = module_run("trust.mutate", module, size.mutants, seed)
        if done.returncode:
            unexplained.append(f"{module}: {done.stderr.strip().splitlines()[-1:]}")
            continue
        tried = json.loads(done.stdout)
        alive = [mutant for mutant in tried if mutant["survives"]]
        found[module] = {"tried": len(tried), "killed": len(tried) - len(alive)}
        for mutant in alive:
            key = (module, mutant["function"], mutant["before"], mutant["after"])
            harmless += key in reasons
            unexplained += [" | ".join(key)] * (key not in reasons)
    tried = sum(module["tried"] for module in found.values())
    killed = sum(module["killed"] for module in found.values())
    return Figures(
        f"{tried} faults in {len(found)} modules{', drawn at random' * (size.mutants > 0)}",
        f"{killed} found, {harmless} explained, {len(unexplained)} neither",
        not unexplained and tried > 0,
        {"modules": found, "explained": harmless, "unexplained": unexplained},
    )
