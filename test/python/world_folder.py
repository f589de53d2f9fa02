"""A small simulated world that tests of the command line share."""

import functools
import tempfile
from pathlib import Path

from otbsr.world.simulate import WorldSettings, simulate


@functools.cache
def world() -> Path:
    """960 m with its Sentinel-2 and Spot products; one for all tests of a session."""
    folder = Path(tempfile.mkdtemp(prefix="otbsr-world-")) / "world"
    simulate(folder, WorldSettings(seed=3, extent=960, products=("safe", "dimap")))
    return folder
