"""README.md from index.ipynb as it is stored, without the cells marked `#| hide`; run it with `make readme`."""
from pathlib import Path

from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
IMAGES = "images"


def readme(
    notebook: Path,  # index.ipynb, executed
) -> dict:           # file name below the root -> bytes
    "README.md and its images."
    config = Config()
    config.RegexRemovePreprocessor.patterns = [r"#\| hide\b"]
    resources = {"unique_key": "index", "output_files_dir": IMAGES}
    text, resources = MarkdownExporter(config=config).from_filename(str(notebook), resources)
    return {"README.md": (text.strip() + "\n").encode(), **resources["outputs"]}


if __name__ == "__main__":
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for name, content in readme(ROOT / "index.ipynb").items():
        (ROOT / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")
