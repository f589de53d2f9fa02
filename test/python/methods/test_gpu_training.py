"""The program that trains on a GPU: its archive, its views, and its sensor, which must be the package's."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from export_trained import told
from gpu_training import observer, packed, unpacked, views

from otbsr.methods.augmentation import Augmentation
from otbsr.methods.sensor import sensor_kernels


def texture(size, seed=0):
    """Smooth random DN around 2000."""
    from scipy import ndimage

    noise = np.random.default_rng(seed).normal(0, 1, (size, size))
    return (2000 + 4000 * ndimage.gaussian_filter(noise, 2, mode="wrap")).astype(np.float32)


def test_an_archive_keeps_radiometry():
    """What 8 bits and JPEG cost is a fifth of what the best network is wrong by (150 DN), and has no bias."""
    plane = texture(256)
    back = unpacked(packed(plane, 90))
    assert np.sqrt(np.mean((back - plane) ** 2)) < 40
    assert abs(np.mean(back - plane)) < 2


@pytest.mark.parametrize(("mix", "bands", "seeds"), [({"wide": 1.0}, 10, [1000]), ({"landscapes": 0.4, "aerial": 0.6}, 4, [1000, 1001])])
def test_a_sidecar_tells_the_archive(tmp_path, mix, bands, seeds):
    """Ten bands: of the landscapes that have ten; validation's seeds never; aerial ground only where it was trained on, or it is said to be unknown."""
    many = {1000: 10, 1001: 4, 2000: 10}
    arrays = {f"landscape/{seed}/{k}": np.zeros(1, np.uint8) for seed, count in many.items() for k in range(count)}
    np.savez(tmp_path / "ground.npz", **arrays, **{"aerial/a": np.zeros(1, np.uint8)})
    (tmp_path / "footprints.json").write_text('[{"crs": "EPSG:32631", "bounds": [0, 0, 1, 1]}]')
    record = {"steps": 30, "seconds": 4.4, "mix": mix, "settings": {"batch": 16, "network": {"bands": ["B4"] * bands}}}
    said = told(record, tmp_path / "ground.npz", tmp_path / "footprints.json")
    assert (said["seeds"], said["pairs"], said["steps"], said["seconds"]) == (seeds, 480, 30, 4)
    assert said["data"].startswith(f"{len(seeds)} simulated landscapes")
    aerial = "aerial" in mix
    assert bool(said["footprints"]) == aerial == ("aerial" in said["data"])
    assert said["areas_complete"]
    assert told(record, tmp_path / "ground.npz", None)["areas_complete"] != aerial


def test_views_of_flat_ground_are_flat():
    """Turning, enlarging and recolouring change the level of a flat image, nothing else; each band its own."""
    made = views(np.full((4, 200, 220), 100, np.uint8), [1, 2, 3])
    assert made.shape == (3, 256, 256, 4)
    assert np.ptp(made, axis=(1, 2)).max() < 0.01 * made.min()
    assert len(np.unique(np.round(made[:, 0, 0], 3))) == 12


def test_the_sensor_is_the_packages_own():
    """Without noise and jitter an input is the target under the kernels of the consistency loss."""
    jax = pytest.importorskip("jax")
    bands, side = ("B4", "B3", "B2", "B8"), 8
    how = Augmentation(mtf=0, shift=0)
    observe, reach = observer(bands, 4, side, how)
    fine = np.stack([texture(4 * (side + 2 * reach), seed) for seed in range(4)], -1)[None]
    seen = np.mean([np.asarray(observe(jax.random.key(k), fine)) for k in range(400)], 0)[0]
    kernels = sensor_kernels(bands, 4)
    radius = (kernels.shape[0] // 4 - 1) // 2
    for y in (0, 5):
        for x in (2, 7):
            top, left = 4 * (reach + y - radius), 4 * (reach + x - radius)
            window = fine[0, top : top + len(kernels), left : left + len(kernels)]
            expected = (window * kernels).sum((0, 1))
            assert np.abs(seen[y, x] - expected).max() < 5  # noise of 15 to 20 DN over 400 draws, a half for rounding
