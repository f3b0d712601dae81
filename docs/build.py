"""`make docs`: every lesson as stored, and the API, as pages that need no network.

`build.py OUT [NAME ...]` takes some lessons only.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
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


def text_of(path: Path) -> str:
    "All cells of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def module_of(path: Path) -> str | None:
    "The module a lesson exports."
    exports = re.search(r"^#\| default_exp (\S+)", text_of(path), re.MULTILINE)
    return exports and exports[1]


def chapter_of(path: Path) -> str:
    "The chapter of a lesson: the name of its folder in words, as `4 Structure` for 04_structure."
    folder = path.parent.relative_to(ROOT / "nbs").as_posix()
    if folder == ".":
        return "Start"
    match = re.fullmatch(r"(\d+)_(.+)", folder)
    words = (match[2] if match else folder).replace("_", " ").capitalize()
    return f"{int(match[1])} {words}" if match else words


def grouped(
    items: list,
    key: Callable,  # item -> name of its group
) -> dict:  # name -> items; groups and items in the order given
    "Items by group."
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def toctree(
    caption: str,  # "" for none
    names: list,  # of pages, without their endings
) -> str:  # MyST
    "A part of the table of contents."
    pages = "\n".join(names)
    return f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n{pages}\n```\n"


def write_page(path: Path, title: str, *parts: str) -> None:
    "A page in MyST."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([f"# {title}", *parts]), encoding="utf-8")


def write_notebook(path: Path, target: Path, source: Path) -> None:
    "A notebook as a page that finds plotly's script from where it stands."
    folders = len(target.relative_to(source).parts) - 1
    script = "../" * folders + "_static/plotly.min.js"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(page(notebook, script)), encoding="utf-8")


def write_api(
    source: Path,  # Sphinx's input
    modules: list,  # names below lgermt
) -> list:  # names of the pages, one per package
    "A page per module, and a page per package that lists its modules; commands are a package here."
    modules = sorted(modules, key=lambda name: ("." in name, name))  # commands first
    packages = grouped(modules, lambda name: name.rpartition(".")[0] or "commands")
    for package, names in packages.items():
        title = "Commands" if package == "commands" else f"lgermt.{package}"
        write_page(source / f"api/{package}.md", title, toctree("", [f"/api/{n}" for n in names]))
        for name in names:
            members = f"```{{eval-rst}}\n.. automodule:: lgermt.{name}\n   :members:\n```\n"
            write_page(source / f"api/{name}.md", f"lgermt.{name}", members)
    return [f"api/{package}" for package in packages]


def prepare(source: Path, lessons: list) -> None:
    "Sphinx's input: chapters and their lessons in the order of learning, the API by package."
    static = source / "_static"
    static.mkdir(parents=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", static)
    shutil.copy(ROOT / "docs/conf.py", source)
    shutil.copytree(ROOT / "images", source / "images")
    write_notebook(ROOT / "index.ipynb", source / "start.ipynb", source)
    for path in lessons:
        write_notebook(path, source / "lessons" / path.relative_to(ROOT / "nbs"), source)
    chapters = {"Start": ["Front page <start>"]}
    for chapter, paths in grouped(lessons, chapter_of).items():
        pages = [f"lessons/{path.relative_to(ROOT / 'nbs').with_suffix('')}" for path in paths]
        chapters.setdefault(chapter, []).extend(pages)
    chapters["API"] = write_api(source, [name for name in map(module_of, lessons) if name])
    write_page(
        source / "index.md",
        "lgermt",
        "Local and global structure-aware entropy regularized mean teacher, as lessons that run.",
        *(toctree(caption, pages) for caption, pages in chapters.items()),
    )


def build(out: Path, names: list) -> None:
    "Writes the site to `out`."
    lessons = [
        path
        for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts and (not names or path.stem in names)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, html = Path(folder) / "source", Path(folder) / "html"
        prepare(source, lessons)
        options = ["-q", "-b", "html", "-d", Path(folder) / "doctrees"]
        command = [sys.executable, "-m", "sphinx", *options, source, html]
        subprocess.run(command, check=True, cwd=ROOT)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(html, out)  # the notebook extension writes beside its output too


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), sys.argv[2:])
