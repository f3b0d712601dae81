"""What all tests share: the repository's root, and a flag for the notebook cells that are skipped otherwise."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
