"""`make trust`: promises of this project, each tried many times; figures go to results/trust.json.

Inputs are drawn anew every time: `--seed` repeats a run. `--only` measures some sections again
and leaves the others in the file. `--quick` shows in a minute or two that everything runs.
"""

import argparse
import os
import random
import secrets
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from helpers import ROOT

from lgermt.utils.environment import versions
from lgermt.utils.files import read_json, write_json
from trust import notebooks, outside, science, supply, tests
from trust.common import QUICK, Size

SECTIONS = {
    section.__name__: section
    for section in (
        science.weights,
        science.metrics,
        outside.properties,
        science.processes,
        outside.mistakes,
        outside.damage,
        outside.kills,
        notebooks.outputs,
        tests.coverage,
        tests.mutants,
        supply.wheel,
        supply.audit,
    )
}
VERDICTS = {True: "holds", False: "BROKEN", None: "NOT KNOWN"}


def measure(name, size, quick, seed):
    "One section as it is stored."
    start = time.monotonic()
    section = SECTIONS[name]
    figures = section(size, seed)
    return {
        "promise": section.__doc__,
        **vars(figures),
        # None: not known; NumPy's would be stored as a text
        "passed": None if figures.passed is None else bool(figures.passed),
        "quick": quick,
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
    parser.add_argument("--mutants", type=int, help="faults tried per module; 0: all")
    parser.add_argument("--seed", type=int, help="of the random inputs; drawn where it is missing")
    parser.add_argument("--json", type=Path, default=ROOT / "results/trust.json")
    options = parser.parse_args(argv)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    random.seed(seed)
    stored = read_json(options.json)["sections"] if options.json.exists() else {}
    failed = []
    size = QUICK if options.quick else Size()
    if options.mutants is not None:
        size = replace(size, mutants=options.mutants)
    for name in options.only:
        found = measure(name, size, options.quick, seed)
        stored[name] = found
        verdict = VERDICTS[found["passed"]]
        print(f"{name:<11}{verdict}  {found['tried']}: {found['found']}", flush=True)
        failed += [name] * (not found["passed"])
        ordered = {key: stored[key] for key in SECTIONS if key in stored}
        write_json(options.json, {"versions": versions(), "sections": ordered})
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
