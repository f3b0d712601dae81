"""`make pictures`: images/result.png and images/explorer.gif, the pictures of the front page.

The result is what `make train` gives: a network trained with 4 annotated phantoms,
and a phantom that it has not seen. `--run runs/NAME` shows a run of that command; without it the
training is done here (some three minutes on a CPU). The moving picture is the figure of the
affinity explorer, redrawn for every position of its sliders. Both take Chromium.
"""

import argparse
import io
import subprocess
import sys
import warnings
from pathlib import Path

import kaleido
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from PIL import Image, ImageColor
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from torch import nn

from lgermt.data.datasets import load_scan
from lgermt.data.splits import read_list
from lgermt.evaluation.metrics import dice
from lgermt.evaluation.scoring import segment
from lgermt.training.checkpoint import load_model
from lgermt.training.config import TrainConfig
from lgermt.utils.environment import versions
from lgermt.utils.files import write_json
from lgermt.viz.affinity_explorer import affinity_figure, default_voxel, tile_corners
from lgermt.viz.figures import COLORS, intensity_window, style_figure
from lgermt.viz.meshes import surface_figure
from lgermt.viz.slices import draw_plane
from lgermt.viz.toy_run import ToyRun, train_toy_run

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 800  # pixels of both pictures: about as wide as the page
LIMIT = 280_000  # bytes of a picture
TRAINING = (  # options of `make train`
    "--data phantom --method lg-er-mt --preset strong --labeled 4 --iterations 150 "
    "--patch 64 64 48 --base-channels 8 --learning-rate 0.003 --seed 0"
)


def render(
    figure: go.Figure,
    width: int,  # for which the figure is laid out, CSS pixels
) -> Image.Image:
    "A plotly figure as an RGB image, WIDTH pixels wide."
    png = pio.to_image(figure, "png", width=width, scale=WIDTH / width)
    return Image.open(io.BytesIO(png)).convert("RGB")


# --- The result ---


def score_cases(
    student: nn.Module,
    config: TrainConfig,  # of its training
    data: Path,  # folder of the scans
) -> list:  # of Dice, the scan, its predicted mask; the worst first
    "Every held-out scan."
    cases = []
    for name in read_list(data / "test.list"):
        scan = load_scan(data, name, labeled=True)
        mask = segment(student, scan.image, config)
        cases.append((dice(mask, scan.label), scan, mask))
    return sorted(cases, key=lambda case: case[0])


def look_alike(
    figure: go.Figure,  # with two 3D scenes; changed in place
    shown: np.ndarray,  # (X, Y, Z), non-zero where one of them has a voxel
    spacing: tuple,  # mm along x, y, z
) -> None:
    "The same part of space, seen from the same place, in both scenes."
    voxels = np.argwhere(shown)
    start, end = (voxels.min(0) - 1) * spacing, (voxels.max(0) + 1) * spacing
    axes = {
        f"{axis}axis": dict(visible=False, range=[start[i], end[i]]) for i, axis in enumerate("xyz")
    }
    sides = (end - start) / (end - start).max()
    figure.update_scenes(
        **axes,
        aspectmode="manual",
        aspectratio=dict(zip("xyz", sides.tolist(), strict=True)),
        camera=dict(eye=dict(x=0.2, y=-0.82, z=0.3), center=dict(x=0, y=0, z=-0.09)),
    )


def result_figure(
    image: np.ndarray,  # (X, Y, Z), any unit
    truth: np.ndarray,  # (X, Y, Z) mask
    mask: np.ndarray,  # (X, Y, Z) mask, the prediction
    spacing: tuple,  # mm along x, y, z
    value: float,  # Dice of the two, 0 to 1
) -> go.Figure:  # two slices with outlines; the two surfaces, from the same place
    "A prediction beside the truth."
    masks = {"truth": truth, "prediction": mask}
    low, high = (int(np.quantile(np.nonzero(truth)[2], share)) for share in (0.2, 0.7))
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {"type": "scene"}], [{}, {"type": "scene"}]],
        column_widths=[0.38, 0.62],
        horizontal_spacing=0.01,
        vertical_spacing=0.07,
        subplot_titles=[
            f"slice z = {low}",
            "truth",
            f"slice z = {high}",
            f"prediction: Dice {100 * value:.1f} %",
        ],
    )
    for row, index in ((1, low), (2, high)):
        draw_plane(figure, image, 2, index, masks, intensity_window(image), spacing, row, 1)
    for row, name in enumerate(masks, 1):
        traces = surface_figure({name: masks[name]}, spacing, step_size=1).data
        figure.add_traces([trace.update(showlegend=False) for trace in traces], rows=row, cols=2)
    look_alike(figure, truth | mask, spacing)
    style_figure(figure, None, 620, margin=dict(l=10, r=10, t=40, b=40))
    figure.update_layout(
        legend=dict(orientation="h", x=0.2, xanchor="center", y=-0.03, yanchor="top")
    )
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def write_result(
    run: Path | None,  # folder of a run; None: train now
    path: Path,  # .png
) -> None:
    "Draws the held-out scan with the median Dice of a run, and stores the Dice of all."
    if run is None:
        run = ROOT / "runs/pictures"
        options = [*TRAINING.split(), "--out", str(run), "--overwrite"]
        subprocess.run([sys.executable, "-m", "lgermt.train", *options], cwd=ROOT, check=True)
    student, config = load_model(run / "last.pt", "cpu")
    cases = score_cases(student, config, ROOT / "data/phantom")
    names = ("method", "preset", "labeled", "iterations", "patch", "base_channels")
    record = {
        "settings": {name: getattr(config, name) for name in (*names, "learning_rate", "seed")},
        "dice": {scan.id: value for value, scan, _ in cases},
        "versions": versions(),
    }
    write_json(ROOT / "results/pictures.json", record)
    value, scan, mask = cases[len(cases) // 2]  # of the two in the middle the better one
    figure = result_figure(scan.image, scan.label, mask, scan.spacing, value)
    render(figure, 1000).save(path, optimize=True)


# --- The explorer ---


def slider(
    title: str,
    options: list,  # what it can be moved to
    value: int,  # where it stands, one of the options
    x: float,  # its left end, 0 to 1 of the figure's width
    length: float,  # 0 to 1
) -> dict:  # for plotly's layout.sliders
    "A slider above the figure."
    color = COLORS["truth"]
    return dict(
        active=list(options).index(value),
        steps=[dict(label=str(option), method="skip") for option in options],
        currentvalue=dict(
            prefix=f"{title}: ", xanchor="left", offset=8, font=dict(size=15, color="#333333")
        ),
        font=dict(size=1, color="white"),  # the labels of the steps would overlap
        x=x,
        y=1.29,
        yanchor="top",
        len=length,
        pad=dict(t=0, b=0, l=0, r=0),
        ticklen=0,
        minorticklen=0,
        tickwidth=0,
        bgcolor=color,
        bordercolor=color,
        activebgcolor=color,
    )


def explorer_figure(
    run: ToyRun,
    iteration: int,  # one of run.iterations
    block: int,  # its number
    x: int,  # of the voxel inside the block, 0 to 15
    y: int,
    z: int,
) -> go.Figure:
    "The explorer's figure with the positions of its sliders above."
    figure = affinity_figure(run, iteration, block, x, y, z, row="in the slice")
    blocks, places = range(len(tile_corners(run.label.shape, 16))), range(16)
    sliders = [
        slider("iteration", run.iterations, iteration, 0.0, 0.34),
        slider("block", blocks, block, 0.36, 0.2),
        slider("x in block", places, x, 0.58, 0.2),
        slider("y in block", places, y, 0.8, 0.2),
    ]
    return figure.update_layout(sliders=sliders, height=640, margin=dict(l=60, r=90, t=130, b=50))


def positions(
    run: ToyRun,
) -> list:  # of (iteration, block, x, y, z) and how many milliseconds it is shown
    "First the training goes on, then the voxel leaves the atrium and crosses a vessel beside it."
    block, x, y, z = default_voxel(run.label, 16)
    last = run.iterations[-1]
    training = [(iteration, block, x, y, z) for iteration in (0, 8, 12, 16, 24, 40, last)]
    down = [(last, block, x, place, z) for place in range(y + 2, 12, 2)]
    across = [(last, block, place, 11, z) for place in range(x + 1, 15)]
    times = [1200, *[700] * 5, 1800, *[450] * (len(down) + len(across) - 1), 1800]
    return list(zip(training + down + across, times, strict=True))


def palette() -> Image.Image:
    "The figure's colours: its two scales in steps, named colours, greys. Few make a small file."
    names = [
        *sample_colorscale("Viridis", 22),
        *sample_colorscale("RdBu", 15),
        *COLORS.values(),
        "#333333",
        "#e3e3e3",
    ]
    colors = [ImageColor.getrgb(name) for name in names]
    colors += [(grey, grey, grey) for grey in np.linspace(0, 255, 12).round().astype(int).tolist()]
    image = Image.new("P", (1, 1))
    image.putpalette([part for color in colors for part in color])
    return image


def write_explorer(
    path: Path,  # .gif
) -> None:
    "Draws the explorer once for every position, as a moving picture."
    run = train_toy_run(iterations=60, every=4, sides=(48, 32, 32), base_channels=4, seed=0)
    places, times = zip(*positions(run), strict=True)
    figures = [explorer_figure(run, *place) for place in places]
    losses = [max(bars.y) for figure in figures for bars in figure.select_traces({"type": "bar"})]
    colors = palette()
    frames = []
    for figure in figures:
        figure.update_yaxes(range=[0, 1.1 * max(losses)], row=2, col=1)
        frame = render(figure, 960)
        frames.append(frame.quantize(palette=colors, dither=Image.Dither.NONE))
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True
    )


def main() -> None:
    "Reads the command line."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, help="folder of a run on the phantom; not given: train it now"
    )
    parser.add_argument("--only", choices=["result", "explorer"], help="not given: both pictures")
    asked = parser.parse_args()
    # plotly asks the running server for what it has already
    warnings.filterwarnings("ignore", "The kopts argument")
    kaleido.start_sync_server()
    result, explorer = ROOT / "images/result.png", ROOT / "images/explorer.gif"
    result.parent.mkdir(exist_ok=True)
    if asked.only != "explorer":
        write_result(asked.run, result)
    if asked.only != "result":
        write_explorer(explorer)
    for path in (result, explorer):
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size} bytes")
        assert size < LIMIT, f"{path.name} is too large"


if __name__ == "__main__":
    main()
