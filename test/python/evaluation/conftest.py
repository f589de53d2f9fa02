"""Shared by the tests of a study's second half."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """A copy of the module's judged study (`done`) that may be changed."""
    return Path(shutil.copytree(done, tmp_path / "copy"))
