"""What all tests share: scans, a finished run, and the option for flagged notebook cells."""

import subprocess

import pytest
from helpers import ROOT, TINY, command

from lgermt.data.datasets import write_phantoms


def pytest_addoption(parser):
    parser.addoption(
        "--flags",
        default="",
        help='notebook cells to run that are skipped otherwise, e.g. "slow gpu"',
    )


@pytest.fixture(scope="session")
def root():
    "The repository's root."
    return ROOT


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    "Six small phantoms, two of them to score."
    folder = tmp_path_factory.mktemp("data") / "scans"
    write_phantoms(folder, train=4, test=2, shape=(48, 40, 32))
    return folder


@pytest.fixture(scope="session")
def finished(scans, tmp_path_factory):
    "An uninterrupted run of LG-ER-MT."
    out = tmp_path_factory.mktemp("runs") / "finished"
    subprocess.run(
        command("train", "--data", scans, "--out", out, *TINY, "--iterations", 12), check=True
    )
    return out
