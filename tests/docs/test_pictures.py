"""The pictures that stand in notebooks for figures: greys stay grey, surfaces are whole."""

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from lgermt.data.phantom import make_phantom
from lgermt.viz.meshes import mask_mesh

pytest.importorskip("kaleido", reason="kaleido is not installed")
import lessons  # noqa: E402
from alternative_text import describe, heading_of  # noqa: E402


def test_a_figure_is_described_by_title_axes_and_names():
    figure = make_subplots(1, 2, subplot_titles=["left", "right"])
    figure.add_scatter(x=[0], y=[0], name="student", row=1, col=1)
    figure.update_layout(title="Loss<br><sup>per step</sup>", xaxis_title="step")
    said = describe(figure.to_plotly_json(), "See it")
    assert said == "Figure: Loss, per step. Labels: left, right. Axes: step. Shown: student."
    assert describe({"data": [{}], "layout": {}}, "See it") == "Figure: See it."
    assert heading_of("text\n\n## The *warm-up* of $\\alpha$\n") == "The warm-up of \\alpha"


def test_greys_stay_grey_beside_many_colours():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    colored = np.random.default_rng(0).integers(0, 256, (64, 256, 3), dtype=np.uint8)
    small = lessons.few_colors(np.concatenate([grey, colored]))
    assert small.mode == "P"
    kept = np.asarray(small.convert("RGB"))[0].astype(int)
    assert np.ptp(kept, axis=1).max() == 0
    assert abs(kept[:, 0] - np.arange(256)).max() <= 2


@pytest.mark.slow
def test_glass_leaves_no_holes_in_the_next_scene():
    vertices, faces = mask_mesh(make_phantom(0, shape=(96, 72, 48))[1], 4)
    x, y, z = vertices.T
    i, j, k = faces.T
    shape = dict(x=x, y=y, z=z, i=i, j=j, k=k)
    figure = make_subplots(1, 2, specs=[[{"type": "scene"}] * 2])
    for column in (1, 2):
        figure.add_trace(go.Mesh3d(**shape, color="orange"), 1, column)
        shifted = {**shape, "x": x + 16}
        figure.add_trace(go.Mesh3d(**shifted, color="blue", opacity=0.4), 1, column)
    figure.update_layout(margin=dict(l=0, r=0), width=800, height=400)
    try:
        image = lessons.pixels(figure).astype(int)
    except Exception as error:  # kaleido looks for the browser itself
        pytest.skip(f"no picture without Chromium: {error}")
    left, right = image[:, 0:380], image[:, 420:800]
    orange = [(half[..., 0] - half[..., 2] > 100).sum() for half in (left, right)]
    assert orange[0] > 1000
    assert abs(orange[0] - orange[1]) < 0.1 * orange[0]
