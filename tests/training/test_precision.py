"""A library that computes bfloat16 wrongly is refused before the first step, at no cost to it."""

import torch
from helpers import assert_same_weights, train
from torch.nn import functional as F

SHORT = ["--iterations", "2", "--precision", "bf16"]
sound = F.conv3d


def wrong(*arguments):
    "A convolution that is wrong in bfloat16."
    y = sound(*arguments)
    return y.flip(1) if y.dtype == torch.bfloat16 else y


def test_train_refuses_a_wrong_library_in_one_line(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(F, "conv3d", wrong)
    said = train(scans, tmp_path / "run", *SHORT, code=2)
    (line,) = said.errors
    assert "wrongly in bfloat16" in line and line.endswith("use --precision fp32")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".pt", ".jsonl")]
    train(scans, tmp_path / "run", *SHORT, "--precision", "fp32")
    assert (tmp_path / "run/metrics.json").exists()


def test_the_check_changes_no_bit_of_a_training(scans, tmp_path, monkeypatch):
    train(scans, tmp_path / "checked", *SHORT)
    monkeypatch.setattr("lgermt.train.check_convolutions", lambda *_: None)
    train(scans, tmp_path / "unchecked", *SHORT)
    assert_same_weights(tmp_path / "checked", tmp_path / "unchecked")
