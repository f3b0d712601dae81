"""`make lessons`: runs notebooks in place the way their outputs are stored; `--stored` only tidies what is stored.

Outputs that only a running kernel can fill (widgets) are removed. The first plotly figures of a notebook get a palette PNG
beside them, for readers whose page shows no plotly, as long as the file stays below its limit; that takes Chromium.
"""
import argparse
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDGET, PLOTLY, PNG = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json", "image/png"
LIMIT = 290_000  # bytes of a notebook; tests/test_repository.py refuses 300_000


def without_widgets(notebook: dict) -> None:
    "Removes outputs that a page without a kernel shows as an error, in place."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]
    notebook["metadata"].pop("widgets", None)


def picture(figure: dict) -> str:
    "A plotly figure as a PNG of 32 colours, base64."
    from base64 import b64encode

    import plotly.io as pio
    from PIL import Image

    drawn = Image.open(io.BytesIO(pio.to_image(pio.from_json(json.dumps(figure), skip_invalid=True), "png", scale=1)))
    small = io.BytesIO()
    drawn.convert("RGB").quantize(32).save(small, "png", optimize=True)
    return b64encode(small.getvalue()).decode()


def text_of(notebook: dict) -> str:
    "The file's contents."
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def add_pictures(notebook: dict, number: int) -> None:
    "PNGs beside the first `number` plotly figures, in place; one that would make the file too large is left out."
    bundles = [output["data"] for cell in notebook["cells"] for output in cell.get("outputs", []) if PLOTLY in output.get("data", {})]
    for data in bundles[:number]:
        data[PNG] = picture(data[PLOTLY])
        if len(text_of(notebook).encode()) > LIMIT:
            del data[PNG]


def execute(path: Path) -> None:
    "Runs a notebook in place."
    environment = {**os.environ, "PLOTLY_RENDERER": "plotly_mimetype", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = ["-m", "nbconvert", "--log-level=ERROR", "--to", "notebook", "--execute", "--inplace",
               "--ExecutePreprocessor.store_widget_state=False", path.name]
    subprocess.run([sys.executable, *command], cwd=path.parent, env=environment, check=True)


def main() -> None:
    "Reads the command line."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="e.g. 08_entropy; none: all lessons")
    parser.add_argument("--stored", action="store_true", help="do not run them")
    parser.add_argument("--pictures", type=int, default=4, help="plotly figures of a notebook that get a PNG beside them")
    asked = parser.parse_args()
    if asked.pictures:
        import kaleido

        warnings.filterwarnings("ignore", "The kopts argument")  # plotly asks the running server for what it has already
        kaleido.start_sync_server()
    paths = [ROOT / "nbs" / f"{Path(name).stem}.ipynb" for name in asked.names] or sorted((ROOT / "nbs").glob("*.ipynb"))
    for path in paths:
        if not asked.stored:
            execute(path)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        without_widgets(notebook)
        add_pictures(notebook, asked.pictures)
        path.write_text(text_of(notebook), encoding="utf-8")
        subprocess.run([Path(sys.executable).parent / "nbdev_clean", "--fname", path], check=True)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
