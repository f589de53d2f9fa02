"""Applications of this folder, run as users run them, and what the tests give them to read."""

from __future__ import annotations

import subprocess

import geopandas
import image_files
import numpy as np
import pytest
from rasterio.transform import Affine
from shapely.geometry import Point

from otbsr.errors import MissingToolError
from otbsr.serving.otb import application_folder, command_line, otb_environment

LEFT, TOP, CRS = 500040.0, 4800000.0, "EPSG:32631"


def needs(*applications):
    """A mark for tests that run these applications."""
    try:
        built = all((application_folder() / f"otbapp_{name}.so").exists() for name in applications)
    except MissingToolError:
        built = False
    return pytest.mark.skipif(not built, reason="the applications are not built")


def otb(application, parameters, sources=None, **environment):
    """Run an application: (exit status, output)."""
    env = {**otb_environment(), **environment}
    env.pop("OTB_TF_NSOURCES", None)
    if sources is not None:
        env["OTB_TF_NSOURCES"] = str(sources)
    done = subprocess.run(command_line(application, parameters), env=env, text=True, capture_output=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def write(path, pixels, spacing, left=LEFT, top=TOP, north_up=True):
    """Write [rows, columns, bands] in the array's own type."""
    transform = Affine(spacing, 0, left, 0, -spacing, top) if north_up else Affine(spacing, 0, left, 0, spacing, top - spacing * len(pixels))
    return image_files.write(path, pixels.transpose(2, 0, 1), crs=CRS, transform=transform)


def points(path, coordinates, **fields):
    fields = fields or {"id": np.arange(len(coordinates))}
    geopandas.GeoDataFrame(fields, geometry=[Point(*c) for c in coordinates], crs=CRS).to_file(path)
    return path


def read(path, side):
    """A patches image as [n, side, side, bands]."""
    pixels = image_files.read(path)
    assert pixels.shape[2] == side
    return pixels.transpose(1, 2, 0).reshape(-1, side, side, pixels.shape[0])


def pair_scene(folder, spacing=10.0, factor=4, size=24, left=LEFT):
    """A fine image in which every pixel differs, and its block means; exact in float32."""
    fine = np.arange((size * factor) ** 2, dtype=np.float32).reshape(size * factor, size * factor)
    fine = np.stack([fine, -2 * fine], axis=-1)
    coarse = fine.reshape(size, factor, size, factor, 2).mean((1, 3), dtype=np.float64).astype(np.float32)
    return write(folder / "coarse.tif", coarse, spacing, left), write(folder / "fine.tif", fine, spacing / factor, left), coarse


def extraction(folder, coarse, fine, vec, size=6, factor=4, field="id", **more):
    return {
        "source1.il": [coarse],
        "source1.patchsizex": size,
        "source1.patchsizey": size,
        "source1.out": [folder / "lr.tif", "float"],
        "source2.il": [fine],
        "source2.patchsizex": size * factor,
        "source2.patchsizey": size * factor,
        "source2.out": [folder / "hr.tif", "float"],
        "vec": vec,
        "field": field,
        **more,
    }


def select(folder, image, step=5, size=5, **more):
    keys = {"in": image, "grid.step": step, "grid.psize": size, "outtrain": folder / "train.gpkg", **more}
    return otb("PatchesSelection", keys)


def cells(path, size, spacing=10.0):
    """Centre pixels (column, row) of the points, as PatchesExtraction finds them."""
    frame = geopandas.read_file(path)
    assert frame.crs == CRS
    shift = 0.0 if size % 2 else 0.5  # even: the point is the corner before the centre column and after the centre row
    column, row = (frame.geometry.x - LEFT) / spacing, (TOP - frame.geometry.y) / spacing
    return [(int(np.floor(c + shift)), int(np.floor(r + shift)) - (size % 2 == 0)) for c, r in zip(column, row, strict=True)]


def expected_centres(extent, size, step, offset=0):
    r = size // 2
    return [i for i in range(r, extent - r) if int(np.fmod(i - (r + 1), step)) == offset % step]
