"""`make docs`: every lesson as stored, and the API, as pages that need no network.

`build.py OUT [NAME ...]` takes some lessons only.
"""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import plotly
import plotly.io as pio
from alternative_text import PLOTLY, PNG, describe, heading_of
from controls import makers_of_controls, shown_maker
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
BESIDE = ("docs/conf.py", "docs/site/course.css", "docs/site/course.js")
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for folder in (".", "data", "docs", "results", "results/search2")
    for path in sorted(ROOT.glob(f"{folder}/*.md"))
    if path != ROOT / "README.md"  # the front page
]
NUMBERS = count()
WIDTH = 800  # pixels of a figure that every page has room for
APPS = ("volume_browser", "affinity_explorer", "self_information_explorer", "metrics_lab")
# The lesson of a chapter whose figure stands on its card; else the first that has one.
CARDS = {
    "01_data": "01_phantom",
    "02_network": "02_supervised",
    "03_mean_teacher": "01_ema",
    "04_structure": "03_affinity_explorer",
    "05_training": "05_live_view",
    "06_results": "06_method_comparison",
    "07_rivals": "01_uncertainty",
    "08_beyond": "02_mixing",
    "09_your_scans": "03_check",
}


@dataclass(frozen=True)
class Place:
    "Where a file of the project stands on the site, and from where its links start."

    path: Path  # in the project
    target: str  # in Sphinx's input, without ending
    source: Path  # Sphinx's input

    def __call__(
        self,
        link: str,
        in_html: bool = False,  # which Sphinx does not read: the page's file, not its source
    ) -> str:
        "A relative link of the file as the page needs it; others stay."
        address, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", address) or address.startswith("//"):
            return link
        anchor = f"#{slug(anchor)}" if anchor else ""
        if not address:
            return anchor
        aim = (self.path.parent / address).resolve()
        if not aim.is_relative_to(ROOT) or not aim.is_file():
            return link
        page = page_of(aim.relative_to(ROOT))
        if not page.endswith(".html"):
            copy = self.source / page
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(aim, copy)
            if in_html:
                return link
        elif not in_html:
            suffix = ".ipynb" if page == "index.html" else aim.suffix
            page = page.removesuffix(".html") + suffix
        folder = Path(self.target).parent
        return Path(os.path.relpath(page, folder)).as_posix() + anchor


def slug(anchor: str) -> str:
    "The anchor of a heading: JupyterLab keeps capitals and marks, a page does not."
    return re.sub(r"[^\w-]", "", anchor.replace("%20", "-")).lower()


def page_of(path: Path) -> str:
    "The page of a file of the project; a file that has none stays beside the pages."
    name = path.as_posix()
    if name in ("index.ipynb", "README.md"):
        return "index.html"
    if path.suffix == ".ipynb":
        return name.replace("nbs/", "lessons/", 1).removesuffix(".ipynb") + ".html"
    if name in DOCUMENTS:
        return f"project/{path.with_suffix('').as_posix().lower().replace('/', '_')}.html"
    return f"files/{name}"


def relinked(text: str, place: Place) -> str:
    "Markdown, or HTML inside it, with the links of the page."
    text = re.sub(r"(\]\()([^)\s]+)(\))", lambda m: m[1] + place(m[2]) + m[3], text)
    marks = r"((?:href|src)=\")([^\"]+)(\")"
    return re.sub(marks, lambda m: m[1] + place(m[2], in_html=True) + m[3], text)


def figure_html(figure: dict, script: str, said: str) -> str:
    "A plotly figure as HTML that says what it shows."
    figure = pio.from_json(json.dumps(figure), skip_invalid=True)
    if (figure.layout.width or 0) > WIDTH:
        figure.layout.width = None  # as wide as the page
    drawn = pio.to_html(
        figure,
        full_html=False,
        include_plotlyjs=script,
        config={"responsive": True, "displaylogo": False},
    )
    return f'<div class="figure" role="figure" aria-label="{html.escape(said)}">{drawn}</div>'


def shown(output: dict, script: str, place: Place, heading: str) -> dict:
    "A stored output as a static page can show it."
    if "data" not in output:
        return output
    data = dict(output["data"])
    data.pop(WIDGET, None)
    said = output.get("metadata", {}).get(PNG, {}).get("alt") or f"Figure: {heading}"
    if figure := data.pop(PLOTLY, None):
        said = describe(figure, heading)
        data = {"text/html": figure_html(figure, script, said)}
    elif picture := data.pop(PNG, None):
        source = f"data:image/png;base64,{''.join(picture).strip()}"
        data = {"text/html": f'<img class="figure" src="{source}" alt="{html.escape(said)}">'}
    elif "text/markdown" in data:
        data = {"text/markdown": relinked("".join(data["text/markdown"]), place)}
    elif table := data.get("text/html"):
        data = {"text/html": relinked("".join(table), place)}
    return {**output, "data": data}


def note_on_controls(text: str, makers: set) -> str:
    "One line below a cell that shows controls; empty for others."
    maker = shown_maker(text, makers)
    if maker is None:
        return ""
    app = ", or as an app with `make app`" if maker in APPS else ""
    return f"*This figure has controls. They move in JupyterLab: `make lab`{app}.*"


def merged_folds(cells: list) -> list:
    "Neighbouring folds without outputs as one."
    merged = []
    for cell in cells:
        fold = cell["metadata"].get("tags") == ["hide-input"] and not cell["outputs"]
        before = merged[-1] if merged else None
        if fold and before and before["metadata"].get("fold"):
            before["source"] = before["source"].rstrip() + "\n\n\n" + cell["source"]
            names = before["metadata"]["mystnb"]
            if names != cell["metadata"]["mystnb"] and "Setup" not in names["code_prompt_show"]:
                names.update(code_prompt_show="Show code", code_prompt_hide="Hide code")
            continue
        if fold:
            cell = {**cell, "metadata": {**cell["metadata"], "fold": True}}
        merged.append(cell)
    return merged


def markdown_cell(text: str) -> dict:
    "A cell of a notebook."
    return {"cell_type": "markdown", "id": f"added-{next(NUMBERS)}", "metadata": {}, "source": text}


def code_of(cell: dict) -> str:
    "A cell's statements, without flags."
    return re.sub(r"^#\|.*\n?", "", "".join(cell["source"]), flags=re.MULTILINE)


def code_cell(cell: dict, outputs: list) -> dict:
    "A code cell of a page: without flags, folded or hidden as in JupyterLab."
    text = "".join(cell["source"])
    tags = []
    if "#| echo: false" in text:
        tags = ["remove-input"]
    elif cell["metadata"].get("jupyter", {}).get("source_hidden"):
        tags = ["hide-input"]
    said = "the checks" if re.match(r"(?:assert|test_eq|with raises)", code_of(cell)) else "code"
    prompt = {"code_prompt_show": f"Show {said}", "code_prompt_hide": f"Hide {said}"}
    metadata = {"tags": tags, "mystnb": prompt}
    return {**cell, "source": code_of(cell), "outputs": outputs, "metadata": metadata}


def without_setup(cells: list) -> list:
    "The folded section Setup of a lesson as one folded cell."
    kept, setup = [], None
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and re.match(r"#+ ", text):
            setup = [] if cell["metadata"].get("jp-MarkdownHeadingCollapsed") else None
            if setup is not None:
                continue
        if setup is None or cell["cell_type"] == "markdown":
            kept.append(cell)
            continue
        if not setup:
            kept.append(cell := {**cell, "outputs": [], "metadata": {}})
            cell["metadata"] = {"jupyter": {"source_hidden": True}, "setup": True}
            setup.append(cell)
            cell["source"] = code_of(cell)
        else:
            setup[0]["source"] = setup[0]["source"].rstrip() + "\n\n" + code_of(cell)
    return kept


def page(notebook: dict, script: str, place: Place, makers: set) -> dict:
    "A notebook without hidden cells, cells for JupyterLab, flags and widgets; figures as HTML."
    cells, heading = [], ""
    visible = [
        cell
        for cell in notebook["cells"]
        if not re.search(r"^#\| *hide|\A<!-- lab", "".join(cell["source"]), re.MULTILINE)
    ]
    for cell in without_setup(visible):
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            heading = heading_of(text) or heading
            cells.append({**cell, "source": relinked(text, place)})
            continue
        outputs = [
            shown(output, script, place, heading)
            for output in cell["outputs"]
            if WIDGET not in output.get("data", {})
        ]
        made = code_cell(cell, outputs)
        if cell["metadata"].get("setup"):
            made["metadata"]["mystnb"] = {
                "code_prompt_show": "Setup: show the imports",
                "code_prompt_hide": "Setup: hide the imports",
            }
        cells.append(made)
        if note := note_on_controls(code_of(cell), makers):
            cells.append(markdown_cell(note))
    return {**notebook, "cells": merged_folds(cells)}


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
    hidden: bool = False,  # in the sidebar only
) -> str:  # MyST
    "A part of the table of contents."
    pages = "\n".join(names)
    options = f":caption: {caption}\n:maxdepth: 1\n" + ":hidden:\n" * hidden
    return f"```{{toctree}}\n{options}\n{pages}\n```\n"


def write_page(path: Path, title: str, *parts: str) -> None:
    "A page in MyST."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([f"# {title}", *parts]), encoding="utf-8")


def write_notebook(path: Path, source: Path, makers: set) -> None:
    "A notebook as a page that finds plotly's script from where it stands."
    name = page_of(path.relative_to(ROOT)).removesuffix(".html")
    script = "../" * name.count("/") + "_static/plotly.min.js"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    target = source / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    made = page(notebook, script, Place(path, name, source), makers)
    target.write_text(json.dumps(made), encoding="utf-8")


def write_documents(source: Path) -> list:  # names of the pages
    "What stands beside the lessons in the project, as pages; other files are copied."
    names = []
    for document in DOCUMENTS:
        name = page_of(Path(document)).removesuffix(".html")
        text = (ROOT / document).read_text(encoding="utf-8")
        path = source / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(relinked(text, Place(ROOT / document, name, source)), encoding="utf-8")
        names.append(name)
    return names


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


def stored_pictures(path: Path) -> list:  # of (PNG, what it shows)
    "The pictures that a notebook holds."
    found, heading = [], ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            heading = heading_of("".join(cell["source"])) or heading
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PNG in data:
                said = describe(data[PLOTLY], heading) if PLOTLY in data else heading
                found.append((base64.b64decode("".join(data[PNG])), said))
    return found


def card_picture(chapter: str, lessons: list, target: Path) -> str:
    "Stores the picture of a chapter's card; what it shows, or nothing where there is none."
    chosen = CARDS.get(chapter)
    for path in sorted(lessons, key=lambda path: path.stem != chosen):
        if pictures := stored_pictures(path):
            png, said = pictures[0]
            picture = Image.open(io.BytesIO(png)).convert("RGB")
            picture.thumbnail((560, 560))
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=80)
            return said
    return ""


@dataclass(frozen=True)
class Row:
    "A row of the table of chapters in index.ipynb."

    number: int
    title: str
    about: str
    links: list  # of (text, file)


def rows_of_chapters() -> list[Row]:
    "The table of chapters in index.ipynb."
    rows = []
    for line in text_of(ROOT / "index.ipynb").splitlines():
        if match := re.fullmatch(r"\| (\d+) \| \*\*(.+?)\*\*:? ?(.*?) \| (.+) \|", line):
            links = re.findall(r"\[([^]]+)\]\((nbs/[^)#]+)[^)]*\)", match[4])
            rows.append(Row(int(match[1]), match[2], match[3], links))
    return rows


def card(row: Row, source: Path, built: set) -> str:
    "A chapter as a card: picture, what it is about, its lessons."
    links = [(text, Path(file)) for text, file in row.links if ROOT / file in built]
    if not links:
        return ""
    lessons = [ROOT / path for _, path in links]
    chapter = links[0][1].parent.name
    image = f"images/chapter_{row.number}.jpg"
    said = card_picture(chapter, lessons, source / "_static" / image)
    picture = ""
    if said:
        picture = f'<img src="_static/{image}" alt="{html.escape(said)}" loading="lazy">'
    items = "".join(f'<li><a href="{page_of(path)}">{text}</a></li>' for text, path in links)
    return (
        f'<section class="chapter" aria-labelledby="chapter-{row.number}">{picture}'
        f'<h3 id="chapter-{row.number}"><span class="number">{row.number}</span> {row.title}</h3>'
        f"<p>{row.about}</p><ol>{items}</ol></section>"
    )


USERS = """
- [From the folder of files to the masks](lessons/09_your_scans/01_your_own_scans.ipynb)
- [Commands](#commands), [your own scans](#your-own-scans), [how long it takes](#how-long-it-takes)
- [How good it is](#how-good-is-it) and [what it cannot do](#what-it-cannot-do)
- [When something goes wrong](#when-something-goes-wrong)
- [Where data come from, and how they lie in folders](project/data_readme.md)
"""
CONTRIBUTORS = """
- [How to take part](project/contributing.md): rules, tests, how a lesson is built
- [Handbook](lessons/handbook/figures.ipynb): notebooks on the parts that are not in the course
- [API](api/commands.md): every module, from its docstrings
- [What changed](project/changelog.md)
"""


def front_page(notebook: dict, source: Path, lessons: list, chapters: dict) -> dict:
    "index.ipynb with cards in place of its table of chapters, groups of readers, and contents."
    cards = "".join(card(row, source, set(lessons)) for row in rows_of_chapters())
    learners = f"```{{raw}} html\n<div class='chapters'>{cards}</div>\n```"
    start = (
        "Begin with [the method on one page](lessons/00_the_method.ipynb). It has course plans for "
        "90 minutes, a day and a week. The [glossary](lessons/glossary.ipynb) explains every term."
    )
    top = [
        f"## For learners: the course\n\n{start}\n\n{learners}",
        f"## For users: your own scans\n{USERS}",
        f"## For contributors: the program\n{CONTRIBUTORS}",
        *(toctree(caption, pages, hidden=True) for caption, pages in chapters.items()),
    ]
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if "| 1 | **" in text or "**Handbook**" in text:
            continue  # the cards and the sidebar say it
        cells.append(cell)
        if len(cells) == 1:
            cells += map(markdown_cell, top)
    return {**notebook, "cells": cells}


def prepare(source: Path, lessons: list) -> None:
    "Sphinx's input: chapters and their lessons in the order of learning, the API by package."
    static = source / "_static"
    static.mkdir(parents=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", static)
    for name in BESIDE:
        shutil.copy(ROOT / name, source if name.endswith(".py") else static)
    makers = makers_of_controls()
    for path in [ROOT / "index.ipynb", *lessons]:
        write_notebook(path, source, makers)
    chapters = {
        chapter: [page_of(path.relative_to(ROOT)).removesuffix(".html") for path in paths]
        for chapter, paths in grouped(lessons, chapter_of).items()
    }
    chapters["API"] = write_api(source, [name for name in map(module_of, lessons) if name])
    chapters["Project"] = write_documents(source)
    index = source / "index.ipynb"
    notebook = json.loads(index.read_text(encoding="utf-8"))
    made = front_page(notebook, source, lessons, chapters)
    index.write_text(json.dumps(made), encoding="utf-8")


def finish(site: Path) -> None:
    "What the theme leaves out for readers who listen: levels of headings, names of switches."
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        text = text.replace(
            'class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"'
        )
        text = text.replace('<summary aria-label="Toggle hidden content">', "<summary>")
        path.write_text(text, encoding="utf-8")


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
        finish(html)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(html, out)  # the notebook extension writes beside its output too


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), sys.argv[2:])
