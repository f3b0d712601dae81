"""`make trust`: promises of this project, each tried many times; figures go to results/trust.json.

Inputs are drawn anew every time: `--seed` repeats a run. `--only` measures some sections again
and leaves the others in the file. `--quick` shows in a minute or two that everything runs.

The exit code is 1 where a promise is broken. What could not be found out (advisories without a
network) is NOT KNOWN: the table says so, and the exit code stays 0.
"""

import argparse
import math
import os
import secrets
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
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


def measure(name, size, little, seed):
    "One section as it is stored."
    start = time.monotonic()
    section = SECTIONS[name]
    figures = section(size, seed)
    return {
        "promise": section.__doc__,
        **vars(figures),
        # None: not known; NumPy's would be stored as a text
        "passed": None if figures.passed is None else bool(figures.passed),
        "quick": little,
        "seed": seed,
        "date": date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def longest_first(names, stored):
    "Sections in the order in which they begin: the one that took longest last time comes first."
    return sorted(names, key=lambda name: -stored.get(name, {}).get("minutes", math.inf))


def measured(names, workers, *arguments):
    "Measures sections, `workers` at a time; each as it ends: (name, what is stored or None)."
    # threads are enough: a section waits for processes of its own
    pool = ThreadPoolExecutor(workers)
    try:
        running = {pool.submit(measure, name, *arguments): name for name in names}
        for section in as_completed(running):
            error = section.exception()
            if error:
                traceback.print_exception(error)
            yield running[section], None if error else section.result()
    finally:
        pool.shutdown(cancel_futures=True)


def parsed(argv):
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--mutants", type=int, help="faults tried per module; 0: all")
    parser.add_argument("--notebooks", nargs="+", help="run for outputs and coverage, e.g. 01_ema")
    parser.add_argument("--seed", type=int, help="of the random inputs; drawn where it is missing")
    parser.add_argument("--workers", type=int, help="sections at a time; two where there are cores")
    parser.add_argument("--json", type=Path, default=ROOT / "results/trust.json")
    options = parser.parse_args(argv)
    if options.seed is None:
        options.seed = secrets.randbelow(2**31)
    options.workers = options.workers or min(2, os.cpu_count() or 1)
    options.size = QUICK if options.quick else Size()
    if options.mutants is not None:
        options.size = replace(options.size, mutants=options.mutants)
    if options.notebooks:
        options.size = replace(options.size, notebooks=tuple(options.notebooks))
    return options


def line_of(name, found):
    "A section as it is printed; where its promise is broken, with its numbers."
    verdict = VERDICTS[found["passed"]]
    line = f"{name:<11}{verdict}  {found['tried']}: {found['found']} ({found['minutes']} min)"
    if found["passed"] is not False:
        return line
    # coverage per file is long, and says nothing about what broke
    numbers = {key: value for key, value in found["numbers"].items() if key != "files"}
    return f"{line}\n{numbers}"


def main(argv=None):
    "Measures, prints and stores; exit code 1 where a promise is broken."
    options = parsed(argv)
    print(f"--seed {options.seed}", flush=True)
    stored = read_json(options.json)["sections"] if options.json.exists() else {}
    names = longest_first(options.only, stored)
    little = options.quick or bool(options.notebooks)
    broken = []
    for name, found in measured(names, options.workers, options.size, little, options.seed):
        stored.pop(name, None)  # not known any longer, if an error of ours stopped the section
        if found:
            stored[name] = found
            print(line_of(name, found), flush=True)
        broken += [name] * (not found or found["passed"] is False)
        ordered = {key: stored[key] for key in SECTIONS if key in stored}
        write_json(options.json, {"versions": versions(), "sections": ordered})
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
