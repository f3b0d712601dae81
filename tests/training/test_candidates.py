"""`results/search2`: each candidate trains and learns from unannotated patches; chosen scans."""

import importlib.util

import pytest
import torch
from helpers import ROOT, tiny_config

from lgermt.data.datasets import load_scan, write_phantoms
from lgermt.data.splits import load_split, read_list
from lgermt.losses.terms import StepContext
from lgermt.losses.weak_to_strong import soft_ce_dice_loss
from lgermt.training.checkpoint import save_checkpoint
from lgermt.training.methods import METHODS
from lgermt.training.plugins import load_plugin
from lgermt.training.trainer import Trainer
from lgermt.utils.errors import InputError

PLUGIN = ROOT / "results/search2/candidates.py"
DISTILLED = ROOT / "results/search2/distilled.py"
SPECIFICATION = importlib.util.spec_from_file_location(
    "choose_scans", ROOT / "results/search2/choose_scans.py"
)
choose_scans = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(choose_scans)
ROWS = (
    "two-views",
    "sure-voxels",
    "soft-cutmix",
    "shifted-crops",
    "structure-on-views",
    "more-unannotated",
    "soft-cps",
    "disputed",
)


@pytest.fixture(scope="module", autouse=True)
def candidates():
    "The methods with the rows of the plugin, and without them afterwards."
    before = dict(METHODS)
    load_plugin(PLUGIN)
    assert set(METHODS) - set(before) == set(ROWS)
    yield
    for name in ROWS:
        METHODS.pop(name)


def make_trainer(method, out, **settings):
    patch = (48, 48, 16) if method == "shifted-crops" else (32, 32, 16)
    sizes = dict(patch=patch, batch_size=4, labeled_batch_size=2, iterations=2)
    return Trainer(tiny_config(out, method, **{"plugin": str(PLUGIN), **sizes, **settings}))


def make_batch(config, unannotated_seed):
    "Annotated patches that are always the same, and unannotated ones of a seed; a bright cube."
    labels = torch.zeros(config.batch_size, *config.patch, dtype=torch.int64)
    labels[:, 10:22, 10:22, 4:12] = 1
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    count = config.labeled_batch_size
    others = torch.Generator().manual_seed(unannotated_seed)
    noise[count:] = torch.randn(noise[count:].shape, generator=others)
    return (2 * labels + noise).unsqueeze(1), labels[:count]


def train(trainer, unannotated_seed):
    for iteration in range(2):
        losses = trainer.step(*make_batch(trainer.config, unannotated_seed), iteration)
    return losses


@pytest.mark.parametrize("method", ROWS)
def test_a_candidate_learns_from_unannotated_patches(method, tmp_path):
    one, other = make_trainer(method, tmp_path), make_trainer(method, tmp_path)
    assert one.config.augmentation == "both" and one.config.optimizer == "adamw"
    losses = train(one, 1)
    assert losses.keys() == {"loss", *(term.name for term in METHODS[method].all_terms)}
    assert all(value.isfinite() for value in losses.values())
    train(other, 2)
    first, second = one.student.state_dict(), other.student.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def distilled():
    "The row that learns from trained networks, for one test."
    load_plugin(DISTILLED)
    yield
    METHODS.pop("distilled")


def test_distilled_labels_are_the_mean_of_the_trained_networks(distilled, tmp_path):
    "The loss is that of the two networks' mean prediction; without runs nothing starts."
    runs = []
    for seed in (1, 2):
        teacher = make_trainer("vnet", tmp_path / f"vnet_{seed}", seed=seed)
        save_checkpoint(teacher.config.out / "last.pt", teacher, 0)
        runs.append(teacher.student.eval())
    options = {"distilled": {"runs": f"{tmp_path}/vnet_1,{tmp_path}/vnet_2"}}
    trainer = make_trainer("distilled", tmp_path, plugin=str(DISTILLED), terms=options)
    images, labels = make_batch(trainer.config, 1)
    step = trainer.make_context(images, labels, 0)
    trainer.predict(step)
    (_, term) = METHODS["distilled"].terms
    loss = term.value(step, trainer.options["distilled"])
    with torch.no_grad():
        mean = sum(run(step.images[2:]).softmax(1) for run in runs) / 2
    torch.testing.assert_close(loss, soft_ce_dice_loss(step.logits[2:], mean))
    with pytest.raises(InputError, match="names no run"):
        make_trainer("distilled", tmp_path, plugin=str(DISTILLED))


def test_the_overlap_of_shifted_crops_is_the_same_place():
    "Student and teacher that return the grey values themselves agree on the overlap."
    images = torch.linspace(-1, 1, 64 * 64 * 16).reshape(1, 1, 64, 64, 16)
    crops = [images[:, :, 16:, 16:], images[:, :, :-16, :-16]]
    shown = []

    def logits(seen):
        "Two classes whose logits differ by the grey value."
        return torch.cat([-seen, seen], 1)

    def probabilities(seen):
        shown.append(seen)
        return logits(seen).softmax(1)

    step = StepContext(
        images,
        torch.zeros(0, 64, 64, 16),
        generator=torch.Generator().manual_seed(0),
        perturb=lambda view: crops[len(shown)],  # the crop itself, not its strong view
        student=logits,
        teacher=probabilities,
    )
    term = next(term for term in METHODS["shifted-crops"].terms if term.name == "shifted")
    loss = term.loss(step)
    assert torch.equal(shown[0], crops[1]) and torch.equal(shown[1], crops[0])
    overlap = logits(images[:, :, 16:-16, 16:-16])
    torch.testing.assert_close(loss, soft_ce_dice_loss(overlap, overlap.softmax(1)))


def test_scans_that_differ_most_are_chosen():
    "Three groups on a line: the middle first, then an end, then the other; never one twice."
    features = torch.tensor([[0.0, 1], [0.1, 1], [5, 1], [10, 1], [10.5, 1]])
    assert choose_scans.most_different(features, 3) == [2, 4, 0]
    assert sorted(choose_scans.most_different(features, 5)) == [0, 1, 2, 3, 4]


def test_the_chosen_scans_stand_first_and_the_held_out_ones_last(tmp_path, monkeypatch, capsys):
    write_phantoms(tmp_path / "scans", train=6, test=0, shape=(48, 40, 32))
    before = read_list(tmp_path / "scans/train.list")
    command = ["choose_scans.py", str(tmp_path / "scans"), str(tmp_path / "drawn"), "--count", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--hold-out", "2"])
    choose_scans.main()
    after = read_list(tmp_path / "drawn/train.list")
    assert sorted(after) == sorted(before) and after[-2:] == before[-2:]
    assert after[:2] == capsys.readouterr().out.split()[1:] and after[:4] != before[:4]
    assert load_split(tmp_path / "drawn", labeled=2, hold_out=2).labeled == tuple(after[:2])
    drawn = load_scan(tmp_path / "drawn", after[0], labeled=True)
    assert (drawn.image == load_scan(tmp_path / "scans", after[0], labeled=True).image).all()
