"""`make lessons`: runs notebooks in place and stores their outputs; `--stored` tidies them only.

Widgets are removed, since only a running kernel can fill them. Every plotly figure gets a PNG
beside it, for pages that show no plotly (needs Chromium), with an alternative text. Where the file
would grow too large, the PNG stays alone.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import warnings
from base64 import b64encode
from pathlib import Path

import kaleido
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from alternative_text import PLOTLY, PNG, describe, heading_of
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
LIMIT = 290_000  # bytes of a notebook; tests/test_repository.py refuses 300_000


def is_for_a_page(output: dict) -> bool:
    "Whether a page shows an output: no widget, which needs a kernel, and no bar or traceback."
    return WIDGET not in output.get("data", {}) and output.get("name") != "stderr"


def drop_outputs(notebook: dict) -> None:
    "Removes outputs that a page does not show, in place."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = list(filter(is_for_a_page, cell["outputs"]))
    notebook["metadata"].pop("widgets", None)


def join_streams(notebook: dict) -> None:
    "Lines that one cell prints after one another become one output, in place."
    for cell in notebook["cells"]:
        joined = []
        for output in cell.get("outputs", []):
            before = joined[-1] if joined else {}
            same = output["output_type"] == before.get("output_type") == "stream"
            if same and output["name"] == before["name"]:
                before["text"] = [*before["text"], *output["text"]]
            else:
                joined.append(output)
        if "outputs" in cell:
            cell["outputs"] = joined


def drawn(
    figure: go.Figure,
) -> np.ndarray:  # (height, width, 3) uint8
    "A figure as pixels."
    png = pio.to_image(figure, "png", width=figure.layout.width or 1000)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def pixels(
    figure: go.Figure,
) -> np.ndarray:  # (height, width, 3) uint8
    """A figure as pixels, its 3D scenes one after the other where they show glass.

    Plotly draws all scenes of a picture on one canvas. After glass it leaves the depths of a
    scene there, and they cut holes into the next one.
    """
    scenes = {trace.scene or "scene" for trace in figure.data if "scene" in trace}
    if len(scenes) < 2 or all(trace.opacity in (None, 1) for trace in figure.data):
        return drawn(figure)

    def with_scene(shown: str | None) -> np.ndarray:
        "The figure with the surfaces of one scene, or of none."
        part = go.Figure(figure)
        for trace in part.data:
            if "scene" in trace and (trace.scene or "scene") != shown:
                trace.visible = "legendonly"
        return drawn(part)

    empty = with_scene(None)
    whole = empty.copy()
    for name in scenes:
        one = with_scene(name)
        changed = (one != empty).any(axis=2)
        whole[changed] = one[changed]
    return whole


def few_colors(
    image: np.ndarray,  # (height, width, 3) uint8
) -> Image.Image:  # with a palette of 64 greys and 160 colours
    "A small picture whose greys stay grey: they share no palette with the colours."
    pixel = image.reshape(-1, 3)
    grey = np.ptp(pixel, axis=1) < 8
    index = np.rint(pixel.mean(axis=1) * 63 / 255).astype(np.uint8)
    colors = np.zeros((160, 3), np.uint8)
    if not grey.all():
        colored = Image.fromarray(pixel[~grey][None]).quantize(
            160, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        index[~grey] = 64 + np.asarray(colored)[0]
        found = np.array(colored.getpalette(), np.uint8).reshape(-1, 3)[:160]
        colors[: len(found)] = found
    small = Image.fromarray(index.reshape(image.shape[:2]), "P")
    greys = np.rint(np.arange(64) * 255 / 63).astype(np.uint8)
    small.putpalette(np.concatenate([np.stack([greys] * 3, 1), colors]).tobytes())
    return small


def picture(figure: dict) -> str:
    "A plotly figure as a small PNG, base64."
    shown = pio.from_json(json.dumps(figure), skip_invalid=True)
    png = io.BytesIO()
    few_colors(pixels(shown)).save(png, "png", optimize=True)
    return b64encode(png.getvalue()).decode()


def text_of(notebook: dict) -> str:
    "The file's contents."
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def figures_of(notebook: dict) -> list:  # of (output, heading of its section)
    "The outputs that hold a figure or a picture."
    found, heading = [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = heading_of("".join(cell["source"])) or heading
        for output in cell.get("outputs", []):
            if {PLOTLY, PNG} & set(output.get("data", {})):
                found.append((output, heading))
    return found


def add_pictures(notebook: dict) -> None:
    """A PNG beside every plotly figure, and what it shows in words, in place.

    Too large a file loses its heaviest figures; their pictures stay.
    """
    live = []
    for output, heading in figures_of(notebook):
        data = output["data"]
        about = output.setdefault("metadata", {}).setdefault(PNG, {})
        if PLOTLY in data:
            data[PNG] = picture(data[PLOTLY])
            about["alt"] = describe(data[PLOTLY], heading)
            live.append(data)
        else:
            about.setdefault("alt", f"Figure: {heading}.")
    live.sort(key=lambda data: len(json.dumps(data[PLOTLY])))
    while live and len(text_of(notebook).encode()) > LIMIT:
        del live.pop()[PLOTLY]


def skip_flagged(path: Path) -> None:
    "Marks cells that need minutes or a GPU to be skipped, in place; `nbdev_clean` undoes it."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if re.search(r"^#\| *(slow|gpu)\b", "".join(cell["source"]), re.MULTILINE):
            cell["metadata"]["tags"] = ["skip-execution"]
    path.write_text(text_of(notebook), encoding="utf-8")


def execute(path: Path) -> None:
    "Runs a notebook in place, but for its flagged cells, whose outputs stay."
    skip_flagged(path)
    environment = {
        **os.environ,
        "PLOTLY_RENDERER": "plotly_mimetype",
        "LGERMT_BATCH": "1",  # exercises print their solutions
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        "-m",
        "nbconvert",
        "--log-level=ERROR",
        "--to",
        "notebook",
        "--execute",
        "--inplace",
        "--ExecutePreprocessor.store_widget_state=False",
        path.name,
    ]
    subprocess.run([sys.executable, *command], cwd=path.parent, env=environment, check=True)


def main() -> None:
    "Reads the command line."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="e.g. 01_entropy; none: all lessons")
    parser.add_argument("--stored", action="store_true", help="do not run them")
    asked = parser.parse_args()
    warnings.filterwarnings(
        "ignore", "The kopts argument"
    )  # plotly asks the running server for what it has already
    kaleido.start_sync_server()
    paths = [
        path
        for path in sorted(ROOT.glob("nbs/**/*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
        if not asked.names or path.stem in asked.names
    ]
    for path in paths:
        if not asked.stored:
            execute(path)
        subprocess.run([Path(sys.executable).parent / "nbdev_clean", "--fname", path], check=True)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        drop_outputs(notebook)
        join_streams(notebook)
        add_pictures(notebook)
        path.write_text(text_of(notebook), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
