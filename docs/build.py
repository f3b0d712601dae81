"""`make docs`: every lesson as stored, and the API, as pages that need no network.

`build.py OUT [NAME ...]` takes some lessons only.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly
import plotly.io as pio

ROOT = Path(__file__).resolve().parent.parent
PLOTLY = "application/vnd.plotly.v1+json"


def shown(output: dict, script: str) -> dict:
    "A stored output as a static page can show it."
    data = dict(output.get("data", {}))
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if figure := data.pop(PLOTLY, None):
        html = pio.to_html(
            pio.from_json(json.dumps(figure), skip_invalid=True),
            full_html=False,
            include_plotlyjs=script,
        )
        data = {"text/html": html}
    return {**output, "data": data} if "data" in output else output


def page(notebook: dict, script: str) -> dict:
    "A notebook without hidden cells, cells for JupyterLab, flags and widgets; figures as HTML."
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if re.search(r"^#\| *hide", text, re.MULTILINE):
                continue
            outputs = [
                shown(output, script)
                for output in cell["outputs"]
                if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]
            hidden = {"metadata": {"tags": ["remove-input"]}} if "#| echo: false" in text else {}
            cell = {
                **cell,
                "source": re.sub(r"^#\|.*\n?", "", text, flags=re.MULTILINE),
                "outputs": outputs,
                **hidden,
            }
        elif text.startswith("<!-- lab"):
            continue
        else:
            cell = {
                **cell,
                "source": re.sub(r"\]\(nbs/([\w/]+)\.ipynb\)", r"](lessons/\1.ipynb)", text),
            }
        cells.append(cell)
    return {**notebook, "cells": cells}


def module_of(path: Path) -> str | None:
    "The module a lesson exports."
    text = "\n".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    )
    found = re.search(r"^#\| default_exp (\S+)", text, re.MULTILINE)
    return found and found[1]


def toctree(
    caption: str,
    names: list,  # of pages, without their endings
) -> str:  # MyST
    "A part of the table of contents."
    pages = "\n".join(names)
    return f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n{pages}\n```\n"


def prepare(source: Path, lessons: list) -> None:
    "Sphinx's input: lessons in their order, one page of the API per module."
    for folder in ("lessons", "api", "_static"):
        (source / folder).mkdir(parents=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", source / "_static")
    shutil.copy(ROOT / "docs/conf.py", source)
    shutil.copytree(ROOT / "images", source / "images")
    for path, target in [
        (ROOT / "index.ipynb", source / "start.ipynb"),
        *((path, source / "lessons" / path.relative_to(ROOT / "nbs")) for path in lessons),
    ]:
        target.parent.mkdir(parents=True, exist_ok=True)
        script = "../" * (len(target.relative_to(source).parts) - 1) + "_static/plotly.min.js"
        target.write_text(
            json.dumps(page(json.loads(path.read_text(encoding="utf-8")), script)), encoding="utf-8"
        )
    modules = [name for name in map(module_of, lessons) if name]
    for name in modules:
        (source / f"api/{name}.md").write_text(
            f"# lgermt.{name}\n\n```{{eval-rst}}\n"
            f".. automodule:: lgermt.{name}\n   :members:\n```\n",
            encoding="utf-8",
        )
    (source / "index.md").write_text(
        "# lgermt\n\nLocal and global structure-aware entropy regularized mean teacher, "
        "as lessons that run.\n\n"
        + toctree("Start", ["start"])
        + toctree(
            "Lessons",
            [f"lessons/{path.relative_to(ROOT / 'nbs').with_suffix('')}" for path in lessons],
        )
        + toctree("API", [f"api/{name}" for name in modules]),
        encoding="utf-8",
    )


def build(out: Path, names: list) -> None:
    "Writes the site to `out`."
    lessons = [
        path
        for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts and (not names or path.stem in names)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        prepare(source, lessons)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "sphinx",
                "-q",
                "-b",
                "html",
                "-d",
                Path(folder) / "doctrees",
                source,
                Path(folder) / "html",
            ],
            check=True,
            cwd=ROOT,
        )  # the notebook extension writes beside its output too
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(folder) / "html", out)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), sys.argv[2:])
