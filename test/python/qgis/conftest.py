"""A QGIS whose OTB provider was set up by us, and images to give it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from desktop import Qgis
from rasterio.windows import Window
from scipy import ndimage

from otbsr.qgis import settings
from otbsr.qgis.setup import qgis_setup

SHARED = Path(os.environ.get("OTBSR_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SCENE = "SENTINEL2B_20181023-105107-455_L2A_T30TYP_D_V1-9_FRE_{}.tif"
BANDS = ("B4", "B3", "B2", "B8")


@pytest.fixture(scope="session")
def profile(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="session")
def qgis(profile, serving) -> Qgis:
    """QGIS with the provider set up by `qgis_setup`; OTBSR_QGIS_PLUGIN: folder of the separate provider, for QGIS 3.36 and later."""
    program = shutil.which("qgis_process.bin", path="/usr/bin:/bin") or shutil.which("qgis_process", path="/usr/bin:/bin")
    if program is None:
        pytest.skip("QGIS is not installed (`make test-qgis` installs it and runs these tests)")
    if shutil.which("otbQgisDescriptor") is None:
        pytest.skip("otbQgisDescriptor is not installed (apt-get install otb-qgis)")
    separate = os.environ.get("OTBSR_QGIS_PLUGIN")
    if separate:
        shutil.copytree(separate, profile / "profiles" / "default" / "python" / "plugins" / settings.PLUGINS[0])
    elif settings.provider_plugin(profile)[1]:
        pytest.skip("this QGIS has no OTB provider of its own; give the folder of the separate one in OTBSR_QGIS_PLUGIN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(profile))
        made = qgis_setup(profile / "otb", write_settings=True)
    return Qgis(program, profile, made)


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Path:
    """Four bands, 80 x 64 pixels of 10 m, of a real scene where there is one, in a folder whose name has a space and an accent."""
    path = tmp_path_factory.mktemp("images") / "été 2018" / "sentinel2.tif"
    path.parent.mkdir()
    folder = SHARED / "sentinel2_theia_gers"
    if folder.is_dir():
        planes, window = [], Window(300, 300, 80, 64)
        for band in BANDS:
            with rasterio.open(folder / SCENE.format(band)) as scene:
                planes.append(scene.read(1, window=window))
                crs, transform = scene.crs, scene.window_transform(window)
    else:
        noise = ndimage.gaussian_filter(np.random.default_rng(5).uniform(-9000, 12000, (4, 64, 80)), (0, 2, 2))
        planes, crs, transform = list(noise), rasterio.CRS.from_epsg(32631), rasterio.Affine(10, 0, 500000, 0, -10, 4800000)
    with rasterio.open(path, "w", driver="GTiff", width=80, height=64, count=4, dtype="int16", crs=crs, transform=transform) as file:
        file.write(np.stack(planes).astype(np.int16))
    return path
