"""Shared by the tests: our OTB applications as a user starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from otbsr.errors import MissingToolError
from otbsr.serving import otb

settings.register_profile("otbsr", deadline=None, print_blob=True)  # a busy machine is no defect
settings.load_profile("otbsr")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_application() -> Run:
    """`run_application(name, *arguments, environment={})` starts one application and returns the finished process.

    Plain subprocess, not `run_otb`: exit status and messages of the application itself are what is tested.
    """
    if shutil.which(otb.LAUNCHER) is None:
        pytest.skip("OTB is not installed")
    try:
        otb.application_folder()
    except MissingToolError as error:
        pytest.skip(str(error))

    def run(name: str, *arguments: object, environment: dict[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, **otb.otb_environment()}
        for key, value in (environment or {}).items():
            variables.pop(key, None)
            if value is not None:
                variables[key] = value
        return subprocess.run([otb.LAUNCHER, name, *map(str, arguments)], env=variables, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="session")
def serving(run_application: Run) -> None:
    """Skips where OTB, our applications or TensorFlow is missing, for tests that start them through the library."""
    if otb.tensorflow_library() is None:
        pytest.skip("TensorFlow is not installed")


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`mount_disk("1m")` gives the folder of a disk of that size; skips where it cannot be mounted."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            folder.rmdir()
            pytest.skip("only root may mount a small disk, and not everywhere")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def models() -> Path:
    """The committed models."""
    return Path(__file__).resolve().parents[2] / "models"
