"""README.md from index.ipynb as it is stored; `make readme` runs the notebook, then this."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
IMAGES = "images"


def readme(
    notebook: Path,  # index.ipynb, executed
) -> dict:  # file name below the root -> bytes
    "README.md and its images: no cells for JupyterLab or marked `#| hide`."
    book = nbformat.read(notebook, as_version=4)
    hidden = ("#| hide", "<!-- lab")
    book.cells = [cell for cell in book.cells if not cell.source.startswith(hidden)]
    book.metadata.language_info = {"name": "python"}
    for cell in book.cells:
        if cell.source.startswith("#| echo: false"):
            cell.metadata.transient = {"remove_source": True}
    text, resources = MarkdownExporter().from_notebook_node(
        book, {"unique_key": "index", "output_files_dir": IMAGES}
    )
    text = re.sub(r"\n{4,}", "\n\n", text.replace("![png]", "![figure]"))
    return {"README.md": (text.strip() + "\n").encode(), **resources["outputs"]}


if __name__ == "__main__":
    files = readme(ROOT / "index.ipynb")
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for old in (ROOT / IMAGES).glob("index_*"):
        old.unlink()
    for name, content in files.items():
        (ROOT / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")
