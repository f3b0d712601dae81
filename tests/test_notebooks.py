"""Every notebook from top to bottom, by nbdev_test in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

CORE = {"01_phantom", "02_supervised", "01_ema", "02_affinity", "04_self_information", "01_methods"}
LESSONS = sorted(ROOT.glob("nbs/**/*.ipynb"))
LESSONS = [path for path in LESSONS if ".ipynb_checkpoints" not in path.parts]
NOTEBOOKS = [*LESSONS, ROOT / "index.ipynb"]


def case(path):
    "A notebook as a case; `make quick` runs those of the method itself."
    marks = () if path.stem in CORE else pytest.mark.slow
    return pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks)


@pytest.mark.parametrize("path", [case(path) for path in NOTEBOOKS])
def test_notebook(path, request):
    flags = request.config.getoption("flags")
    program = shutil.which("nbdev_test", path=Path(sys.executable).parent)
    command = [program, "--path", path, "--flags", flags]
    environment = {**os.environ, "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0 and "Success" in done.stdout, done.stdout + done.stderr
