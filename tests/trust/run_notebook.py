"""Runs the code cells of a notebook in this process: `python -m trust.run_notebook NOTEBOOK`.

Exported cells are compiled as lines of their module, so that coverage.py counts them there. A cell
may be replaced by another source: that is how mutants are tried.
"""

import json
import os
import re
import sys
from pathlib import Path

from execnb.shell import CaptureShell
from helpers import ROOT

SKIPPED = r"^#\| *(slow|gpu|notest|browser|eval: *false)\b"


def code_cells(path):
    "Cells that tests run: ID -> source."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        skipped = re.search(SKIPPED, source, re.MULTILINE) or "nbdev_export()" in source
        if cell["cell_type"] == "code" and not skipped:
            cells[cell["id"]] = source
    return cells


def module_file(cells):
    "The file a notebook exports to; None where it exports nothing."
    found = re.search(r"^#\| default_exp ([\w.]+)", "\n".join(cells.values()), re.MULTILINE)
    return ROOT / "lgermt" / f"{found[1].replace('.', '/')}.py" if found else None


def first_lines(module):
    "ID of an exported cell -> number of its first line in the module."
    if module is None:
        return {}
    lines = module.read_text(encoding="utf-8").splitlines()
    headers = ((re.match(r"# %% \S+ #(\w+)$", line), n) for n, line in enumerate(lines, 2))
    return {header[1]: n for header, n in headers if header}


def steps(path, cells):
    "Runs the cells, each after its ID is yielded; raises what the first faulty cell raises."
    module = module_file(code_cells(path))
    starts = first_lines(module)
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    shell = CaptureShell(path)
    shell.ast_node_interactivity = "none"  # nobody sees a figure
    for name in cells:
        yield name
        source = cells[name]
        if name in starts and re.match(r"#\| *exports?\b", source):
            code = re.sub(r"\A(#\|.*\n|\s*\n)+", "", source)
            program = compile("\n" * (starts[name] - 1) + code, str(module), "exec")
            exec(program, shell.user_ns)
            continue
        shell.run(source)
        if shell.exc:
            raise shell.exc


def run(path, cells=None):
    "Runs the cells; raises what the first faulty cell raises."
    for _ in steps(path, code_cells(path) if cells is None else cells):
        pass


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
