"""`make app`: explorers, metrics lab and a live training as pages.

`start.py RUN [OPTION OF VOILA ...]`; RUN is the folder of a run, relative to the folder named by
the variable START or to the project, and may be empty.
"""

import contextlib
import html
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

APPS = Path(__file__).resolve().parent
ROOT = APPS.parent
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>lgermt: apps</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ color: #222; font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 44rem; }}
li {{ border: 1px solid #ccc; border-radius: .5rem; list-style: none; }}
li {{ margin: .8rem 0; padding: .6rem 1rem; }}
ul {{ padding: 0; }}
a {{ color: #00568a; font-size: 1.15rem; font-weight: bold; }}
p {{ margin: .2rem 0; }}
</style></head><body><main><h1>Figures to move</h1>
<p>{shown} Each page takes some ten seconds to open.</p>
<ul>{apps}</ul></main></body></html>
"""


def run_folder(
    given: str,  # a folder that holds last.pt, or last.pt itself
    start: Path,  # where the reader stands
) -> Path:
    "The folder of a run. Ends the program with one line where there is none."
    for base in (start, ROOT):
        folder = base / given
        folder = folder.parent if folder.name == "last.pt" else folder
        if (folder / "last.pt").is_file():
            return folder.resolve()
    sys.exit(f"RUN={given}: no last.pt there; make train writes one to runs/phantom")


def start_page(
    run: str,  # folder of the run that is shown, or empty
) -> str:  # a template of Voila
    "What the apps are, from the openings of their notebooks."
    shown = "They show a short training on phantoms; make app RUN=runs/NAME shows a run of yours."
    shown = f"They show the run in {html.escape(run)}." if run else shown
    items = []
    for path in sorted(APPS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title, words = "".join(cells[0]["source"]).removeprefix("# ").split("\n\n> ")
        link = f"{{{{ base_url }}}}voila/render/{path.name}"
        items.append(f'<li><a href="{link}">{title}</a><p>{html.escape(words)}</p></li>')
    return PAGE.format(shown=shown, apps="".join(items))


def main() -> None:
    "Serves the apps until it is stopped."
    given, options = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    start = Path(os.environ.get("START") or Path.cwd())
    run = str(run_folder(given, start)) if given else ""
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "voila/templates/course")
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "tree-lab.html").write_text(start_page(run), encoding="utf-8")
        environment = {
            **os.environ,
            "RUN": run,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)]),
            "JUPYTER_PATH": folder,
        }
        command = [sys.executable, "-m", "voila", "--template=course", *options, str(APPS)]
        with contextlib.suppress(KeyboardInterrupt):
            sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
