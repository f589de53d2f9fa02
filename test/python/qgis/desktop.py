"""QGIS, headless, as a user's desktop starts it: its own profile, and nothing of this process's environment."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from otbsr.qgis.setup import Setup
from otbsr.serving import otb


def plain_environment(profile: Path) -> dict[str, str]:
    """What QGIS gets: a Python of a virtual environment in PATH or PYTHONPATH would take the place of its own."""
    places = {"HOME": profile, "QGIS_CUSTOM_CONFIG_PATH": profile, "XDG_RUNTIME_DIR": profile}
    return {"PATH": "/usr/bin:/bin", "QT_QPA_PLATFORM": "offscreen", "LANG": "C.UTF-8", **{key: str(path) for key, path in places.items()}}


@dataclass(frozen=True)
class Qgis:
    """`run(algorithm, key=value ...)` runs an algorithm and returns what QGIS said; `words` starts qgis_process with any words."""

    program: str
    profile: Path
    setup: Setup

    def words(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], env=plain_environment(self.profile), capture_output=True, text=True, timeout=300, check=False)
        return done.stdout + done.stderr

    def run(self, algorithm: str, parameters: dict[str, object]) -> str:
        return self.words("run", algorithm, "--", *(f"{key}={value}" for key, value in parameters.items()))


def algorithms(text: str) -> set[str]:
    """The names of OTB's algorithms that `qgis_process list` prints."""
    return set(re.findall(r"^\s*otb:(\w+)", text, re.MULTILINE))


def built() -> list[str]:
    """The names of our applications."""
    return sorted(path.name.removeprefix("otbapp_").removesuffix(".so") for path in otb.application_folder().glob("otbapp_*.so"))
