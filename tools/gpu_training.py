"""Train models on one GPU through JAX, where there is neither TensorFlow nor GDAL: all ground lies in the GPU's memory, inputs are made anew there.

    python tools/gpu_training.py ground OUT --landscapes FOLDER --aerial IMAGE.npy...     here: one archive of targets, small enough to travel
    python tools/gpu_training.py pool GROUND POOL [--processes 16]                       there: tiles of targets from it
    python tools/gpu_training.py train POOL OUT JOB=SECONDS [JOB=SECONDS ...]            there: one job after the other, weights into OUT/JOB.npz
    python tools/export_trained.py OUT/JOB.npz MODEL_FOLDER VALIDATION.npz --ground GROUND   here: the SavedModel

Each step draws tiles, turns and flips them, changes their radiometry, and looks at them through a sensor whose MTF, registration and noise
are drawn for each image (as `methods.augmentation` does for batches on a processor): no input is ever seen twice. Targets are

  landscapes  of `otbsr simulate` (ten bands);
  aerial      views of the aerial images at any angle, at 1 to 2.6 times their size, stretched and recoloured;
  leaves      "dead leaves" (Lee, Mumford and Huang 2001): discs and polygons of all sizes that hide each other, with spectra and texture of the
              two others. They have the edges and scales of natural images and none of their content, so that a network that has seen few
              real scenes does not learn these by heart.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))
BANDS = ("B4", "B3", "B2", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
TILE = 256
"""Target pixels of a side of a tile at 2.5 m."""
FULL = 12000.0
"""DN that become 255 in the archive, on a scale of roots, so that rounding is about as fine everywhere as noise is."""


def without_gdal() -> None:
    """Stand-ins for what `otbsr.grid` imports: nothing here reads or writes rasters."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        for name in ("rasterio", "rasterio.errors", "rasterio.windows", "affine"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["rasterio.errors"].RasterioIOError = OSError  # type: ignore[attr-defined]
        sys.modules["rasterio.windows"].Window = object  # type: ignore[attr-defined]
        sys.modules["affine"].Affine = object  # type: ignore[attr-defined]


# --- the archive -------------------------------------------------------------------------------------------------------------


def packed(plane: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    """One band of DN as the bytes of a grey JPEG on a scale of roots."""
    from PIL import Image

    grey = np.rint(255 * np.sqrt(np.clip(plane, 0, FULL) / FULL)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=quality)
    return np.frombuffer(stream.getvalue(), np.uint8)


def unpacked(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """DN of what `packed` made, float32."""
    from PIL import Image

    return ((np.asarray(Image.open(io.BytesIO(data.tobytes())), np.float32) / 255) ** 2 * FULL).astype(np.float32)


def ground(out: Path, landscapes: Path, aerial: list[Path], wide: int, quality: int) -> None:
    """Archive of landscapes (npy [10, h, w] DN; of all but the first `wide` four bands only) and aerial images (npy [4, h, w] counts, 1 m)."""
    arrays: dict[str, Any] = {}
    for index, path in enumerate(sorted(p for p in landscapes.glob("*.npy") if "." not in p.stem)):
        planes = np.load(path)
        for k in range(10 if index < wide or int(path.stem) >= 2000 else 4):
            arrays[f"landscape/{path.stem}/{k}"] = packed(planes[k], quality)
    for path in aerial:
        arrays[f"aerial/{path.stem}"] = np.load(path).astype(np.uint8)
    np.savez(out, **arrays)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(arrays)} arrays")


# --- tiles -------------------------------------------------------------------------------------------------------------------


def views(image: np.ndarray[Any, Any], seeds: list[int]) -> np.ndarray[Any, Any]:
    """Tiles [n, TILE, TILE, 4] of an aerial image [4, h, w] of 1 m counts, each turned, enlarged, stretched and recoloured at random; DN."""
    from scipy import ndimage

    blurred: dict[int, Any] = {}
    result = np.empty((len(seeds), TILE, TILE, 4), np.float32)
    for place, seed in enumerate(seeds):
        random = np.random.default_rng([seed, 31])
        zoom = float(np.exp(random.uniform(0, math.log(2.6))))
        step = 2.5 / zoom  # source pixels of a target pixel
        level = round(4 * math.log2(step)) if step > 1 else 0
        if level not in blurred:
            sigma = 1.3 / 2.5 * 2 ** (level / 4)  # the reference's point spread, its square included
            own = math.sqrt(max(0.0, sigma**2 - 1 / 12))
            smooth = [ndimage.gaussian_filter(band.astype(np.float32), own, mode="mirror") for band in image]
            blurred[level] = [ndimage.spline_filter(band, 3, mode="mirror") for band in smooth]
        angle, stretch = random.uniform(0, 2 * math.pi), np.exp(random.normal(0, 0.08))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = turn @ np.diag([step * stretch, step / stretch])
        centre = np.array([random.uniform(0, s) for s in image.shape[1:]])
        offset = centre - matrix @ np.full(2, TILE / 2)
        scale = np.array([12.0, 12.0, 12.0, 18.0]) * np.exp(random.normal(0, 0.1, 4))
        for b in range(4):
            plane = ndimage.affine_transform(blurred[level][b], matrix, offset, (TILE, TILE), order=3, mode="mirror", prefilter=False)
            level_b = np.clip(plane, 0, 255) / 255
            result[place, ..., b] = level_b ** np.exp(random.normal(0, 0.15)) * 255 * scale[b]
    return result


def leaves(spectra: np.ndarray[Any, Any], textures: np.ndarray[Any, Any], seeds: list[int]) -> np.ndarray[Any, Any]:
    """Tiles of dead leaves: spectra [m, 4] DN to colour them, textures [k, TILE, TILE, 4] DN to fill them; DN."""
    import cv2
    from scipy import ndimage

    scale = 2
    side = TILE * scale
    result = np.empty((len(seeds), TILE, TILE, 4), np.float32)
    for place, seed in enumerate(seeds):
        random = np.random.default_rng([seed, 37])
        count = int(random.integers(150, 900))
        labels = np.zeros((side, side), np.int32)
        smallest, largest = random.uniform(1.5, 4) * scale, random.uniform(30, 120) * scale
        radii = (smallest**-2 - random.uniform(0, 1, count) * (smallest**-2 - largest**-2)) ** -0.5  # density r^-3
        lean = random.uniform(0, math.pi)  # fields and houses share directions
        order = np.argsort(-radii) if random.random() < 0.5 else np.arange(count)
        for label, i in enumerate(order, 1):
            r, (x, y) = radii[i], random.uniform(0, side, 2)
            kind = random.random()
            if kind < 0.3:
                cv2.ellipse(labels, ((x, y), (2 * r, 2 * r * random.uniform(0.5, 1)), random.uniform(0, 180)), label, -1)
                continue
            if kind < 0.8:  # rectangles, some of them long: buildings, fields, roads
                long = r * math.exp(random.exponential(0.5))
                angle = lean + random.choice([0, math.pi / 2]) + random.normal(0, 0.05 if random.random() < 0.7 else 1)
                corners = np.array([[-long, -r], [long, -r], [long, r], [-long, r]]) * random.uniform(0.4, 1)
            else:
                corner_angles = np.sort(random.uniform(0, 2 * math.pi, int(random.integers(3, 8))))
                corners, angle = r * np.stack([np.cos(corner_angles), np.sin(corner_angles)], 1), 0.0
            turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            cv2.fillPoly(labels, [np.rint((corners @ turn + (x, y)) * 16).astype(np.int32)], label, shift=4)
        own = spectra[random.integers(len(spectra), size=count + 1)]
        few = own[random.integers(max(2, count // 20), size=count + 1)]
        colour = np.where(random.random((count + 1, 1)) < 0.6, few, own) * np.exp(random.normal(0, 0.12, (count + 1, 1)))
        image = colour.astype(np.float32)[labels]
        strength = random.uniform(0, 1.2, count + 1) * (random.random(count + 1) < 0.75)
        texture = textures[int(random.integers(len(textures)))]
        if random.random() < 0.5:
            texture = np.rot90(texture, int(random.integers(4)))
        ratio = texture / np.maximum(ndimage.uniform_filter(texture, (25, 25, 1), mode="mirror"), 50.0)
        ratio = np.clip(ratio, 0.2, 5.0).repeat(scale, 0).repeat(scale, 1)
        image *= 1 + strength.astype(np.float32)[labels][..., None] * (ratio - 1)
        shade = ndimage.zoom(random.normal(0, 0.15, (5, 5)), side / 5, order=3, mode="mirror", grid_mode=True)
        image *= np.exp(shade).astype(np.float32)[..., None]
        sigma = 0.435 * scale  # the reference's Gaussian of MTF 0.25, in target pixels
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror")
        result[place] = image.reshape(TILE, scale, TILE, scale, 4).mean((1, 3))
    return result


def pool(archive: Path, out: Path, processes: int, counts: tuple[int, int]) -> None:
    """Write OUT/landscapes.npy [n, 256, 256, 4], wide.npy (ten bands), aerial.npy, leaves.npy, and valid.npy: uint16 DN; counts: aerial, leaves."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    data = np.load(archive)
    kept: dict[str, dict[str, dict[int, Any]]] = {}
    for key in data.files:
        kind, name, *rest = key.split("/")
        kept.setdefault(kind, {}).setdefault(name, {})[int(rest[0]) if rest else 0] = data[key]
    tiles: dict[str, list[Any]] = {"landscapes": [], "wide": [], "valid": []}
    corners = (0, 232, 464)
    with ProcessPoolExecutor(processes) as workers:
        for name, planes in kept["landscape"].items():
            image = np.stack(list(workers.map(unpacked, [planes[k] for k in sorted(planes)])), -1)
            cut = [image[y : y + TILE, x : x + TILE] for y in corners for x in corners]
            if int(name) >= 2000:
                tiles["valid"] += cut
                continue
            tiles["landscapes"] += [tile[..., :4] for tile in cut]
            tiles["wide"] += cut if image.shape[-1] == 10 else []
        for name, many in tiles.items():
            np.save(out / f"{name}.npy", np.rint(np.stack(many)).astype(np.uint16))
        images = [planes[0] for planes in kept["aerial"].values()]
        shares = np.array([image[0].size for image in images], float)
        split = np.rint(counts[0] * shares / shares.sum()).astype(int)
        jobs, start = [], 0
        for image, number in zip(images, split, strict=True):
            jobs += [workers.submit(views, image, list(range(start + i, start + min(i + 16, number)))) for i in range(0, number, 16)]
            start += number
        aerial = np.concatenate([job.result() for job in jobs])
        np.save(out / "aerial.npy", np.rint(np.clip(aerial, 0, 20000)).astype(np.uint16))
        random = np.random.default_rng(41)

        def pixels(images: Any, size: int) -> Any:
            return images[tuple(random.integers(limit, size=size) for limit in (len(images), TILE, TILE))]

        spectra = np.concatenate([pixels(np.stack(tiles["landscapes"]), 3000), pixels(aerial, 9000)])
        textures = aerial[random.integers(len(aerial), size=60)]
        made = workers.map(partial(leaves, spectra, textures), [list(range(i, i + 25)) for i in range(0, counts[1], 25)])
        np.save(out / "leaves.npy", np.rint(np.clip(np.concatenate(list(made)), 0, 20000)).astype(np.uint16))
    made_of = ", ".join(f"{path.stem} {len(np.load(path, mmap_mode='r'))}" for path in sorted(out.glob("*.npy")))
    print(f"pool: {made_of} tiles; {time.monotonic() - begin:.0f} s", flush=True)


# --- the sensor, for each image its own ---------------------------------------------------------------------------------------


def observer(bands: tuple[str, ...], factor: int, side: int, how: Any) -> tuple[Any, int]:
    """Function (key, fine [n, (side + 2 r) factor, .., bands] DN) -> input [n, side, side, bands], and r: `sensor.observe_anew` drawn for each image."""
    import jax
    import jax.numpy as jnp

    from otbsr.methods.sensor import spacing_ratio
    from otbsr.world.sensors import REFERENCE_MTF, SENTINEL2, gaussian_sigma

    spacing, reach = 10.0 / factor, 3
    size = (side + 2 * reach) * factor
    own = gaussian_sigma(spacing, REFERENCE_MTF)

    def operators(key: Any, n: int, band: str) -> Any:
        ratio = spacing_ratio(band)
        keys = jax.random.split(key, 2)
        mtf = jnp.minimum(0.5, SENTINEL2[band].mtf * jnp.exp(how.mtf * jax.random.normal(keys[0], (n, 1, 1, 1))))
        sigma = 10.0 * ratio / math.pi * jnp.sqrt(-2 * jnp.log(mtf * math.pi / 2))
        sigma = jnp.sqrt(jnp.maximum(sigma**2 - own**2, 0.01)) / spacing
        shift = jax.random.uniform(keys[1], (n, 2, 1, 1), minval=-how.shift, maxval=how.shift) * factor
        middle = reach * factor + (np.arange(side // ratio) + 0.5) * factor * ratio - 0.5
        distance = np.arange(size)[None, :] - middle[:, None]
        weights = jnp.zeros((n, 2, side // ratio, size), jnp.float32)
        for k in range(factor * ratio):
            off = k - (factor * ratio - 1) / 2
            weights = weights + jnp.exp(-0.5 * ((distance - off - shift) / sigma) ** 2)
        weights = weights / weights.sum(-1, keepdims=True)
        return jnp.repeat(weights, ratio, axis=2)

    def observe(key: Any, fine: Any) -> Any:
        n, planes = fine.shape[0], []
        level = jax.random.uniform(jax.random.fold_in(key, 99), (n, 1, 1), minval=0.5, maxval=1.5)
        for index, band in enumerate(bands):
            known, ratio = SENTINEL2[band], spacing_ratio(band)
            keys = jax.random.split(jax.random.fold_in(key, index), 2)
            w = operators(keys[0], n, band)
            seen = jnp.einsum("nyi,nij,nxj->nyx", w[:, 0], fine[..., index], w[:, 1], precision="highest")
            noise = jax.random.normal(keys[1], (n, side // ratio, side // ratio))
            noise = jnp.repeat(jnp.repeat(noise, ratio, 1), ratio, 2)
            deviation = jnp.sqrt((known.read_noise * 1e4) ** 2 + known.shot_noise * 1e4 * jnp.maximum(seen, 0.0))
            planes.append(jnp.round(seen + level * deviation * noise))
        return jnp.stack(planes, -1)

    return observe, reach


# --- training ----------------------------------------------------------------------------------------------------------------

FIDELITY = {"pixel": 1.0, "gradient": 0.1, "spectral": 0.02, "consistency": 0.1, "foot": 0.1}
SR4RS = {
    "network": {"body": "sr4rs", "channels": 64, "blocks": 16, "back_projection": 0, "spread": 10000.0},
    "loss": {"pixel": 200.0, "gradient": 0.0, "spectral": 0.0, "consistency": 0.0},
    "batch": 16,
    "rate": 1e-3,
    "clip": 1e9,
}
MIX = {"landscapes": 0.4, "aerial": 0.35, "leaves": 0.25}
JOBS: dict[str, dict[str, Any]] = {
    "f-base-x4": {"settings": {"network": {"size": "base"}, "loss": FIDELITY, "batch": 64, "rate": 1e-3}},
    "f-base-x4-scratch": {"settings": {"network": {"size": "base"}, "loss": FIDELITY, "batch": 64, "rate": 1e-3}},
    "f-light-x4": {"settings": {"network": {"size": "light"}, "loss": FIDELITY, "batch": 64, "rate": 2e-3}},
    "f-light-x2": {"settings": {"network": {"size": "light", "factor": 2}, "loss": FIDELITY, "batch": 64, "rate": 2e-3}},
    "f-light-x4-10bands": {"settings": {"network": {"size": "light", "bands": BANDS}, "loss": FIDELITY, "batch": 48, "rate": 2e-3}, "mix": {"wide": 1.0}},
    "p-base-x4": {
        "settings": {"network": {"size": "base"}, "batch": 32, "rate": 3e-4, "average": 0.998, "adversarial": {"start": 0.0, "ramp": 0.25}},
        "from": "f-base-x4",
    },
    "sr4rs-x4": {"settings": SR4RS},
    "sr4rs-gan-x4": {
        "settings": SR4RS
        | {
            "rate": 2e-4,
            "adversarial": {"weight": 2.0, "features": 0.0, "texture": 0.0, "pattern": 0.0, "start": 0.0, "ramp": 1e-6, "relativistic": False, "channels": 64},
        },
        "from": "sr4rs-x4",
    },
}
SIDE = 48
"""Input pixels of a patch in training."""


class Job:
    """One training: everything on the GPU, `chunk` steps a call."""

    def __init__(self, name: str, pools: Path, out: Path, small: int = 0) -> None:
        """small: steps with so many images of few pixels, to try the program on a processor."""
        import jax
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
        from otbsr.methods import losses, sr4rs
        from otbsr.methods.objectives import Critic, FidelityModel, PerceptualModel
        from otbsr.methods.settings import TrainingSettings

        losses.degrade = dense_degrade
        sr4rs.Blur.call = lambda _, x: blurred(x)
        self.name, self.plan, self.out = name, JOBS[name], out
        self.side = 24 if small else SIDE
        settings = TrainingSettings.model_validate({"average": 0.999, **self.plan["settings"]} | ({"batch": small} if small else {}))
        self.settings = settings
        keras.utils.set_random_seed(settings.seed)
        self.critic = Critic(settings) if settings.adversarial else None
        self.model = PerceptualModel(settings, self.critic) if self.critic else FidelityModel(settings)
        s, f = settings.network, settings.network.factor
        probe = np.zeros((1, 2 * settings.border + 8, 2 * settings.border + 8, len(s.bands)), np.float32)
        self.model(probe)
        if self.critic:
            fine = np.zeros((1, 8 * f, 8 * f, len(s.bands_out)), np.float32)
            self.critic([fine[:, :8, :8], fine, fine])
        if self.plan.get("from"):
            self.start_from(out / f"{self.plan['from']}.npz")
        self.sources = self.plan.get("mix", MIX)
        self.pools = {key: jax.device_put(np.load(pools / f"{key}.npy", mmap_mode="r")[: 20 if small else None]) for key in self.sources}
        self.observe, self.reach = observer(tuple(s.bands), f, self.side, settings.augmentation)

    def start_from(self, path: Path) -> None:
        """Take the weights of another job, in their serving form as it left them."""
        import keras

        from otbsr.methods.networks import widen

        full = path.with_suffix(".full.npz")
        with np.load(full if full.exists() else path) as file:
            arrays = [file[key].astype(np.float32) for key in file.files if key != "record"]
        if not full.exists():
            keras.config.set_dtype_policy("float32")
            arrays = [np.asarray(v) for v in widen(arrays, self.settings.network).trainable_variables]
            keras.config.set_dtype_policy("mixed_bfloat16")
        for variable, value in zip(self.model.net.trainable_variables, arrays, strict=True):
            variable.assign(value)

    def batch(self, key: Any, pools: Any) -> tuple[Any, Any]:
        """Inputs and targets of a step, drawn by `key` from the tiles of each source: DN."""
        import jax
        import jax.numpy as jnp

        s, how = self.settings, self.settings.augmentation
        f, n = s.network.factor, s.batch
        shares = np.array(list(self.sources.values()))
        numbers = np.diff(np.rint(np.concatenate([[0], np.cumsum(shares / shares.sum())]) * n).astype(int))
        size = (self.side + 2 * self.reach) * f
        whole = size if f == 4 else 2 * size + 8
        parts = []
        for index, (number, tiles) in enumerate(zip(numbers, pools, strict=True)):
            if number == 0:
                continue
            keys = jax.random.split(jax.random.fold_in(key, index), 3)
            which = jax.random.randint(keys[0], (number,), 0, tiles.shape[0])
            places = jax.random.randint(keys[1], (number, 2), 0, TILE - whole + 1)

            def cut(i: Any, place: Any, tiles: Any = tiles) -> Any:
                return jax.lax.dynamic_slice(tiles, (i, place[0], place[1], 0), (1, whole, whole, tiles.shape[-1]))[0]

            parts.append(jax.vmap(cut)(which, places).astype(jnp.float32))
        fine = jnp.concatenate(parts)
        if f == 2:
            fine = halved(fine)
        keys = jax.random.split(jax.random.fold_in(key, 77), 6)
        turn = jax.random.bernoulli(keys[0], 0.5, (3, n, 1, 1, 1))
        fine = jnp.where(turn[0], fine.swapaxes(1, 2), fine)
        fine = jnp.where(turn[1], fine[:, ::-1], fine)
        fine = jnp.where(turn[2], fine[:, :, ::-1], fine)
        gain = jnp.exp(how.gain * jax.random.normal(keys[1], (n, 1, 1, 1)) + how.band_gain * jax.random.normal(keys[2], (n, 1, 1, fine.shape[-1])))
        fine = jnp.maximum(fine * gain + how.offset * jax.random.normal(keys[3], (n, 1, 1, fine.shape[-1])), 0.0)
        lr = self.observe(keys[4], fine)
        inner = slice(self.reach * f, (self.reach + self.side) * f)
        return lr, fine[:, inner, inner]

    def compile(self) -> Any:
        """The jitted function of `chunk` steps."""
        import jax
        import jax.numpy as jnp
        import keras
        import optax

        s, model, critic = self.settings, self.model, self.critic
        net = model.net
        self.optimiser = optax.chain(optax.clip_by_global_norm(s.clip), optax.scale_by_adam(b1=0.9, b2=0.99))
        self.rival = optax.chain(optax.clip_by_global_norm(s.clip), optax.scale_by_adam(b1=0.5, b2=0.99))
        fixed = [v.value for v in net.non_trainable_variables]

        def generated(weights: Any, lr: Any) -> Any:
            return net.stateless_call(weights, fixed, lr, training=True)[0].astype(jnp.float32)

        def loss_of(weights: Any, judge: Any, lr: Any, target: Any, strength: Any) -> Any:
            made = generated(weights, lr)
            if critic is None:
                return model.compute_loss(x=lr, y=target, y_pred=made)
            mapping = [*zip(critic.trainable_variables, judge, strict=True), (model.strength, strength)]
            with keras.StatelessScope(state_mapping=mapping):
                return model.compute_loss(x=lr, y=target, y_pred=made)

        def judged(judge: Any, lr: Any, target: Any, made: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(critic.trainable_variables, judge, strict=True))):
                return critic.compute_loss(y_pred=critic(model.cut(lr, target, made)))

        def step(state: Any, pools: Any, number: Any, key: Any, rate: Any, strength: Any) -> tuple[Any, Any]:
            lr, target = self.batch(key, pools)
            made = generated(state["weights"], lr)
            if critic is not None:
                _, push = jax.value_and_grad(judged)(state["judge"], lr, target, jax.lax.stop_gradient(made))
                push, state["rival"] = self.rival.update(push, state["rival"])
                state["judge"] = optax.apply_updates(state["judge"], jax.tree.map(lambda g: -s.adversarial.rate * g, push))
            loss, slope = jax.value_and_grad(loss_of)(state["weights"], state.get("judge"), lr, target, strength)
            ok = jnp.isfinite(loss)
            slope = jax.tree.map(lambda g: jnp.where(ok, g, 0.0), slope)
            slope, state["optimiser"] = self.optimiser.update(slope, state["optimiser"])
            state["weights"] = optax.apply_updates(state["weights"], jax.tree.map(lambda g: -rate * g, slope))
            decay = jnp.minimum(s.average, (number + 1) / (number + 10))
            state["average"] = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state["average"], state["weights"])
            return state, loss

        def chunk(state: Any, pools: Any, first: Any, count: int, rate: Any, strength: Any) -> tuple[Any, Any]:
            def body(state: Any, number: Any) -> tuple[Any, Any]:
                return step(dict(state), pools, number, jax.random.fold_in(jax.random.key(s.seed), number), rate, strength)

            return jax.lax.scan(body, state, first + jnp.arange(count))

        return jax.jit(chunk, static_argnums=3, donate_argnums=0)  # tiles as arguments: as constants they make compilation take minutes

    def run(self, seconds: float, chunk: int = 50, report: float = 20.0) -> None:
        """Train for so many seconds of wall time (compilation not counted) and write the weights."""
        import jax
        import jax.numpy as jnp

        s = self.settings
        begin = time.monotonic()
        function = self.compile()
        tiles = list(self.pools.values())
        # copies: the state is given to each call for good
        state: dict[str, Any] = {"weights": [jnp.array(np.asarray(v.value)) for v in self.model.net.trainable_variables]}
        state["average"] = [jnp.array(np.asarray(w)) for w in state["weights"]]
        state["optimiser"] = self.optimiser.init(state["weights"])
        if self.critic:
            state["judge"] = [jnp.array(np.asarray(v.value)) for v in self.critic.trainable_variables]
            state["rival"] = self.rival.init(state["judge"])
        number, losses, curve, last = 0, [], [], 0.0
        start, compiled = 0.0, 0.0
        while True:
            share = 0.0 if number == 0 else min(1.0, (time.monotonic() - start) / seconds)
            if share >= 1.0:
                break
            rate = s.final_rate + (s.rate - s.final_rate) * 0.5 * (1 + math.cos(math.pi * share))
            rate *= min(1.0, (number + 1) / max(1, s.warmup))
            strength = min(1.0, max(0.0, share - s.adversarial.start) / s.adversarial.ramp) if s.adversarial else 0.0
            state, many = function(state, tiles, number, chunk, jnp.float32(rate), jnp.float32(strength))
            many = np.asarray(many)
            number += chunk
            losses.append(float(many.mean()))
            if start == 0.0:
                start = time.monotonic()
                compiled = start - begin
                print(f"{self.name}: compiled in {compiled:.0f} s", flush=True)
            if time.monotonic() - start - last > report:
                last = time.monotonic() - start
                curve.append([number, round(float(np.mean(losses[-10:])), 5)])
                print(f"{self.name}: {last:.0f} of {seconds:.0f} s, {number} steps, loss {curve[-1][1]}, {number / last:.1f} steps/s", flush=True)
        took = time.monotonic() - start
        averages = [np.asarray(a) for a in state["average"]]
        record = {"steps": number, "seconds": round(took, 1), "compiled_seconds": round(compiled, 1), "losses": curve}
        self.write(averages, record | {"device": str(jax.devices()[0].device_kind)})
        print(f"{self.name}: {number} steps in {took:.0f} s", flush=True)

    def write(self, averages: list[Any], record: dict[str, Any]) -> None:
        """OUT/NAME.npz: weights of the serving form in its order, 32 bits (16 for SR4RS's many), and how they came about; NAME.full.npz to go on from."""
        from otbsr.methods.networks import fuse

        for variable, value in zip(self.model.net.trainable_variables, averages, strict=True):
            variable.assign(value)
        np.savez(self.out / f"{self.name}.full.npz", *averages)
        import keras

        keras.config.set_dtype_policy("float32")
        plain = fuse(self.model.net, self.settings.network)
        keras.config.set_dtype_policy("mixed_bfloat16")
        kind = np.float16 if self.settings.network.body == "sr4rs" else np.float32
        weights = {f"w{i:03d}": w.astype(kind) for i, w in enumerate(plain.get_weights())}
        record |= {"settings": self.settings.model_dump(mode="json"), "side": self.side, "mix": self.sources, "from": self.plan.get("from", "")}
        partial_file = self.out / f".{self.name}.part.npz"
        np.savez(partial_file, record=np.array(json.dumps(record)), **weights)
        os.replace(partial_file, self.out / f"{self.name}.npz")


def halved(fine: Any) -> Any:
    """2.5 m to 5 m: the reference's Gaussian at 5 m in place of that at 2.5 m, then means of 2 x 2; four pixels of each side are lost."""
    import jax.numpy as jnp

    from otbsr.world.sensors import REFERENCE_MTF, gaussian_sigma

    sigma = math.sqrt(gaussian_sigma(5.0, REFERENCE_MTF) ** 2 - gaussian_sigma(2.5, REFERENCE_MTF) ** 2) / 2.5
    taps = np.convolve(np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2), np.ones(2))
    taps = (taps / taps.sum()).astype(np.float32)

    def along(x: Any, axis: int) -> Any:
        x = jnp.moveaxis(x, axis, 1)
        count = (x.shape[1] - 8) // 2
        rows = sum(t * x[:, k : k + 2 * count : 2] for k, t in enumerate(taps))
        return jnp.moveaxis(rows, 1, axis)

    return along(along(fine, 1), 2)


def dense_degrade(image: Any, kernels: Any, factor: int) -> Any:
    """`sensor.degrade` as a convolution on the coarse grid: a large depthwise convolution with strides is slow on GPUs."""
    from keras import ops

    from otbsr.methods.sensor import polyphase_degradation

    n, h, w, bands = image.shape
    phases = ops.reshape(image, (n, h // factor, factor, w // factor, factor, bands))
    phases = ops.reshape(ops.transpose(phases, (0, 1, 3, 2, 4, 5)), (n, h // factor, w // factor, factor**2 * bands))
    return ops.conv(phases, ops.convert_to_tensor(polyphase_degradation(kernels, factor)), padding="valid")


def blurred(x: Any) -> Any:
    """`sr4rs.Blur` as sums of shifted images, in any precision."""
    from keras import ops

    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 16


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("ground")
    one.add_argument("out", type=Path)
    one.add_argument("--landscapes", type=Path, required=True)
    one.add_argument("--aerial", type=Path, nargs="*", default=[])
    one.add_argument("--wide", type=int, default=16, help="landscapes with all ten bands [%(default)s]")
    one.add_argument("--quality", type=int, default=90, help="of the JPEG [%(default)s]")
    two = commands.add_parser("pool")
    two.add_argument("ground", type=Path)
    two.add_argument("out", type=Path)
    two.add_argument("--processes", type=int, default=16)
    two.add_argument("--counts", type=int, nargs=2, default=(2000, 3000), help="tiles of aerial views and of dead leaves")
    three = commands.add_parser("train")
    three.add_argument("pool", type=Path)
    three.add_argument("out", type=Path)
    three.add_argument("jobs", nargs="+")
    three.add_argument("--small", type=int, default=0)
    asked = parser.parse_args()
    if asked.command == "ground":
        ground(asked.out, asked.landscapes, asked.aerial, asked.wide, asked.quality)
    elif asked.command == "pool":
        pool(asked.ground, asked.out, asked.processes, tuple(asked.counts))
    else:
        os.environ["KERAS_BACKEND"] = "jax"
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        without_gdal()
        asked.out.mkdir(parents=True, exist_ok=True)
        for text in asked.jobs:
            name, _, seconds = text.partition("=")
            Job(name, asked.pool, asked.out, asked.small).run(float(seconds), chunk=2 if asked.small else 50)


if __name__ == "__main__":
    main()
