"""What holds for every scan, crop, batch and window; hypothesis looks for a counterexample."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lgermt.data.io import read_h5, read_scan, write_h5, write_image_like, write_mask
from lgermt.data.patches import (
    ORIENTATIONS,
    PatchSampler,
    TwoStreamSampler,
    check_divisible,
    pad_to,
    random_corner,
    random_crop,
)
from lgermt.data.splits import read_list
from lgermt.data.volume import Volume
from lgermt.evaluation.sliding_window import sliding_window, window_counts, window_starts
from lgermt.utils.errors import InputError

sides = st.tuples(*[st.integers(1, 7)] * 3)
finite = st.floats(-1e6, 1e6, width=32)
seeds = st.integers(0, 2**32 - 1)


def numbers(count, low, high):
    "A tuple of floats."
    return st.tuples(*[st.floats(low, high)] * count)


def turned(order, signs):
    "Direction matrix, row by row, of a grid with exchanged and mirrored axes; right-handed."
    matrix = np.diag(signs)[:, order].astype(float)
    matrix[:, 0] *= np.linalg.det(matrix)
    return tuple(float(v) for v in matrix.ravel())


directions = st.builds(
    turned, st.permutations(range(3)), st.tuples(*[st.sampled_from((-1, 1))] * 3)
)


@st.composite
def volumes(draw):
    "A volume that need not be a good one, with or without label and geometry."
    shape = draw(sides)
    image = draw(arrays.arrays(np.float32, shape, elements=finite))
    label = draw(st.none() | arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    geometry = draw(numbers(3, 0.01, 10)), draw(numbers(3, -500, 500)), draw(directions)
    return Volume(
        image, label, *(draw(st.sampled_from((values, None))) for values in geometry), id="scan"
    )


def same(one, other):
    "Bit for bit."
    return (one is None and other is None) or (
        one.dtype == other.dtype and np.array_equal(one, other)
    )


# readers


@given(volume=volumes())
def test_h5_gives_back_what_was_written(tmp_path, volume):
    write_h5(tmp_path / "scan.h5", volume, made="here")
    found = read_h5(tmp_path / "scan.h5")
    assert same(found.image, volume.image) and same(found.label, volume.label)
    assert (found.spacing, found.origin, found.direction, found.id) == (
        volume.spacing,
        volume.origin,
        volume.direction,
        "scan",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["scan.h5"]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz"])
@given(volume=volumes())
def test_images_give_back_what_was_written(tmp_path, suffix, volume):
    path = tmp_path / f"scan{suffix}"
    write_image_like(path, volume.image, volume)
    found = read_scan(path)
    assert same(found.image, volume.image) and found.label is None
    plain = Volume(volume.image, None, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    for name in ("spacing", "origin", "direction"):
        assert getattr(found, name) == pytest.approx(
            getattr(volume, name) or getattr(plain, name), rel=1e-4, abs=1e-3
        ), name


@given(volume=volumes(), seed=seeds)
def test_a_mask_comes_back_on_its_grid(tmp_path, volume, seed):
    mask = np.random.default_rng(seed).integers(0, 2, volume.image.shape)
    write_mask(tmp_path / "mask.nii.gz", mask, volume)
    assert np.array_equal(read_scan(tmp_path / "mask.nii.gz").image, mask)
    wrong = mask[1:] if len(mask) > 1 else np.repeat(mask, 2, 0)
    with pytest.raises(InputError, match="differ in shape"):
        write_mask(tmp_path / "other.nii.gz", wrong, volume)
    assert not (tmp_path / "other.nii.gz").exists()


BEGINNINGS = {
    ".h5": b"\x89HDF\r\n\x1a\n",
    ".nrrd": b"NRRD0004\ntype: float\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n",
    ".nii": (348).to_bytes(4, "little"),
    ".nii.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
}


@pytest.mark.parametrize("suffix", BEGINNINGS)
@given(content=st.binary(max_size=600), real_beginning=st.booleans())
@example(content=b"", real_beginning=False)
def test_any_bytes_are_a_scan_or_an_input_error(tmp_path, suffix, content, real_beginning):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes((BEGINNINGS[suffix] if real_beginning else b"") + content)
    try:
        found = read_scan(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert found.image.ndim == 3


@given(content=st.binary(max_size=200))
@example(content=b"a\nb\n\na\n")
def test_any_bytes_are_a_list_or_an_input_error(tmp_path, content):
    path = tmp_path / "train.list"
    path.write_bytes(content)
    try:
        ids = read_list(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert ids and len(set(ids)) == len(ids) and all(i.strip() == i != "" for i in ids)


# the crop


@given(shape=sides, least=sides, channels=st.integers(1, 3))
def test_padding_is_undone(shape, least, channels):
    image = torch.rand(channels, *shape) + 1
    padded, inside = pad_to(image, least)
    assert padded.shape[1:] == tuple(map(max, shape, least))
    assert torch.equal(padded[(slice(None), *inside)], image)
    assert padded.sum().item() == pytest.approx(image.sum().item(), rel=1e-5)  # zeros, nothing else
    for part, n in zip(inside, padded.shape[1:]):
        assert 0 <= n - part.stop - part.start <= 1  # in the middle


@settings(max_examples=20)
@given(extra=st.tuples(*[st.integers(0, 2)] * 3), patch=sides, seed=seeds)
def test_every_corner_is_drawn_and_none_outside(extra, patch, seed):
    rng, shape = np.random.default_rng(seed), tuple(a + b for a, b in zip(extra, patch))
    drawn = {
        random_corner(shape, patch, rng) for _ in range(600)
    }  # at most 27 corners: missing one has a chance below 1e-8
    assert drawn == set(itertools.product(*(range(n + 1) for n in extra)))


@given(
    extra=st.tuples(*[st.integers(0, 3)] * 3),
    patch=sides,
    orientations=st.sampled_from(ORIENTATIONS),
    seed=seeds,
)
def test_image_and_label_are_cut_alike_from_inside(extra, patch, orientations, seed):
    least = tuple(a + b for a, b in zip(extra, (max(patch[:2]), max(patch[:2]), patch[2])))
    places = torch.arange(math.prod(least)).view(least)  # a voxel is its own address
    image, label = random_crop(
        [places.float(), places], patch, orientations, np.random.default_rng(seed)
    )
    assert image.shape == label.shape == patch and torch.equal(image.long(), label)
    where = np.stack(
        np.unravel_index(label.numpy(), least)
    )  # addresses: axis, then the patch's sides
    low, high = where.min((1, 2, 3)), where.max((1, 2, 3))
    assert (
        np.prod(high - low + 1) == label.numel() == len(label.unique())
    )  # a box, every voxel once
    steps = [np.abs(np.diff(where, axis=axis + 1)).sum(0) for axis in range(3)]
    assert all((step == 1).all() for step in steps)  # neighbours stay neighbours
    if orientations == "none":
        assert (where[:, 0, 0, 0] == low).all() and (where[:, -1, -1, -1] == high).all()


# the sampler


@st.composite
def samplers(draw):
    "A sampler, and a number of processes that can share its batches."
    processes = draw(st.sampled_from((1, 2, 3)))
    annotated, others = processes * draw(st.integers(1, 3)), processes * draw(st.integers(0, 3))
    labeled = tuple(range(draw(st.integers(1, 9))))
    unlabeled = tuple(range(len(labeled), len(labeled) + draw(st.integers(1, 9))))
    sampler = TwoStreamSampler(labeled, unlabeled, annotated + others, annotated, draw(seeds))
    return sampler, processes


@given(drawn=samplers(), first=st.integers(0, 1000))
def test_annotated_first_and_nobody_more_often_than_another(drawn, first):
    sampler, _ = drawn
    batches = [sampler.batch(iteration) for iteration in range(60)]
    annotated = sampler.labeled_batch_size
    for half, scans, count in (
        (slice(annotated), sampler.labeled, annotated),
        (slice(annotated, None), sampler.unlabeled, sampler.batch_size - annotated),
    ):
        stream = [scan for batch in batches for scan in batch[half]]
        assert len(stream) == 60 * count
        for start in range(0, len(stream) - len(scans) + 1, len(scans)):
            # each round visits every scan once
            assert sorted(stream[start : start + len(scans)]) == sorted(scans)
    assert sampler.batch(first) == replace(sampler).batch(first)  # a function of seed and iteration


@given(drawn=samplers(), iteration=st.integers(0, 10**6))
def test_processes_share_the_batch_out(drawn, iteration):
    sampler, processes = drawn
    annotated = sampler.labeled_batch_size
    check_divisible(annotated, sampler.batch_size - annotated, processes)
    batch = sampler.batch(iteration)
    for rank in range(processes):
        labeled = [scan in sampler.labeled for scan in batch[rank::processes]]
        assert labeled == sorted(labeled, reverse=True)
        assert sum(labeled) == annotated // processes


@settings(max_examples=20)
@given(
    shape=sides,
    patch=sides,
    orientations=st.sampled_from(ORIENTATIONS),
    iteration=st.integers(0, 10**6),
)
def test_patches_of_any_scan_have_their_labels(shape, patch, orientations, iteration):
    codes = np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)
    scans = [Volume(codes, (codes % 2).astype(np.uint8), id=str(i)) for i in range(2)] + [
        Volume(codes, id=str(i)) for i in range(2, 4)
    ]
    images, labels, names = PatchSampler(
        scans, TwoStreamSampler((0, 1), (2, 3)), patch, orientations
    ).batch(iteration)
    assert images.shape == (4, 1, *patch) and labels.shape == (2, *patch) and len(names) == 4
    assert torch.equal(
        images[:2, 0].long() % 2, labels
    )  # odd voxels are the atrium, the padding is not


# the sliding window


class Local(torch.nn.Module):
    "Logits that depend on the voxel and on the whole window."

    def forward(self, x):
        return torch.cat([x, -x, x.mean((2, 3, 4), keepdim=True).expand_as(x)], 1)


class Constant(torch.nn.Module):
    "The same two logits everywhere."

    def forward(self, x):
        return torch.tensor([0.3, -0.4]).view(1, 2, 1, 1, 1).expand(len(x), 2, *x.shape[2:])


@st.composite
def windows(draw):
    "Window and strides that leave no gap."
    patch = draw(sides)
    return patch, tuple(draw(st.integers(1, n)) for n in patch)


@given(shape=sides, window=windows())
def test_every_voxel_is_covered(shape, window):
    patch, stride = window
    assume(all(have >= want for have, want in zip(shape, patch)))
    count = torch.zeros(shape)
    starts = [window_starts(*line) for line in zip(shape, patch, stride)]
    for corner in itertools.product(*starts):
        box = tuple(slice(c, c + n) for c, n in zip(corner, patch))
        assert count[box].shape == patch  # inside
        count[box] += 1
    assert count.min() >= 1 and torch.equal(count, window_counts(shape, patch, stride))
    assert all(len(set(line)) == len(line) for line in starts)  # no window twice


@given(shape=sides, window=windows(), batch_size=st.integers(1, 5))
def test_a_constant_network_gives_a_constant_map(shape, window, batch_size):
    p = sliding_window(Constant(), torch.rand(shape), *window, batch_size)
    expected = torch.tensor([0.3, -0.4]).softmax(0).view(2, 1, 1, 1).expand(2, *shape)
    torch.testing.assert_close(p, expected)


def naive(model, image, patch, stride):
    "One window after the other, sums and counts, on an image at least as large as the window."
    total, count = torch.zeros(3, *image.shape), torch.zeros(image.shape)
    for corner in itertools.product(
        *(
            sorted({min(i, n - k) for i in range(0, n, s)})
            for n, k, s in zip(image.shape, patch, stride)
        )
    ):
        box = tuple(slice(c, c + n) for c, n in zip(corner, patch))
        total[(slice(None), *box)] += model(image[box][None, None]).softmax(1)[0]
        count[box] += 1
    return total / count


@given(shape=sides, window=windows(), batch_size=st.integers(1, 5), seed=seeds)
def test_the_sliding_window_is_the_naive_one(shape, window, batch_size, seed):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    padded, inside = pad_to(image, window[0])
    expected = naive(Local(), padded, *window)[(slice(None), *inside)]
    torch.testing.assert_close(sliding_window(Local(), image, *window, batch_size), expected)


@given(shape=sides, patch=sides, extra=st.integers(1, 5), axis=st.integers(0, 2))
def test_strides_that_leave_gaps_are_refused(shape, patch, extra, axis):
    stride = tuple(n + extra * (i == axis) for i, n in enumerate(patch))
    with pytest.raises(ValueError, match="uncovered"):
        sliding_window(Constant(), torch.rand(shape), patch, stride)
