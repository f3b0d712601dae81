"""Every notebook from top to bottom in a process of its own, by nbdev_test (settings.ini names the flags it skips)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("nbs/**/*.ipynb")) + [ROOT / "index.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook(path, request):
    command = [
        Path(sys.executable).parent / "nbdev_test",
        "--path",
        path,
        "--flags",
        request.config.getoption("flags"),
    ]
    environment = {**os.environ, "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0 and "Success" in done.stdout, done.stdout + done.stderr
