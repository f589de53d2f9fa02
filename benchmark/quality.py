"""Models side by side on landscapes and real scenes that none was trained on: paired per scene, with intervals, and issue 4's limits.

    python benchmark/quality.py --models models/f-light-x4 models/f-base-x4 ... [--cache build/quality] [--out build/quality/scores.jsonl]

Three kinds of scenes, all x4 with bands B4 B3 B2 B8:
  simulated  landscapes of `otbsr simulate` whose seeds no model's sidecar lists; the noise-free 2.5 m reference is the truth;
  real       aerial images of 1 m (NAIP: chesapeake_1m at two dates, and the subset of naip_1m that is never trained on), taken as the ground and
             seen by the sensor models at 2.5 m (reference) and 10 m (input, with Sentinel-2's noise): Wald's protocol;
  blind      windows of a real Sentinel-2 image (sentinel2_theia_gers): no reference, agreement with the input only.
Bicubic and Lanczos are always among the models. Models run in Python on whole images; operations are the multiplications of the SavedModel's
convolutions, counted in its graph; time is that of the images with their margins, models in turn on each scene.
Models of more than a million multiplications per output pixel (SR4RS's: 7.5) run on every fourth scene of each kind only (--thin), and are compared
on those. An F-base whose name has "scratch" is the one that was trained beside SR4RS's generator, on the same pairs for the same time.
Intervals: 95 %, bootstrap over scenes (two dates of one ground count as one). A limit says "not measured" where its model is absent.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rasterio

from otbsr.errors import OtbsrError, UsageError
from otbsr.evaluation.quality import BANDS, paired, read_reflectance, scores
from otbsr.methods.baselines import write_baseline
from otbsr.methods.model_folder import ModelFolder
from otbsr.products.product import open_product, stack
from otbsr.world.aerial import observe_aerial
from otbsr.world.simulate import WorldSettings, simulate

ROOT = Path(__file__).resolve().parents[1]
SEEDS = list(range(9001, 9017))
URBAN, DAYS = (0.05, 0.2, 0.35, 0.5, 0.7, 0.9), (75, 105, 135, 165, 200, 225, 255, 285)
EXTENT = 720
NAIP_TEST = "m_3607717_sw_18_1_20160620_subset"
"""The scene of naip_1m that no model of ours is trained on (doc/decisions.md)."""
FACTOR = 4
HEAVY = 1e6
"""Multiplications per output pixel above which a model runs on some of the scenes only."""


@dataclass
class Scene:
    """An input and, where there is one, its reference: reflectance [rows, columns, bands]; `group` is the ground it shows."""

    kind: str
    name: str
    group: str
    lr: np.ndarray
    reference: np.ndarray | None = None


@dataclass
class Entry:
    """A model with what it cost and how it scored: rows[scene name][measure]."""

    name: str
    folder: ModelFolder
    operations: float = math.nan
    seconds: dict[int, list[float]] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def pace(self) -> float:
        """Seconds per million input pixels, margins included: median over the largest scenes."""
        return statistics.median(self.seconds[max(self.seconds)]) / max(self.seconds) * 1e6 if self.seconds else math.nan


# --- scenes ---------------------------------------------------------------------------------------------------------------------


def landscapes(seeds: list[int], cache: Path) -> list[Scene]:
    """Simulated landscapes, urban share and day varied by the place in the list."""
    found = []
    for index, seed in enumerate(seeds):
        folder = cache / f"world-{seed}"
        settings = WorldSettings(seed=seed, extent=EXTENT, urban=URBAN[index % len(URBAN)], day=DAYS[(3 * index) % len(DAYS)])
        simulate(folder, settings, overwrite=True)
        found.append(observed("simulated", f"seed {seed}", folder))
    return found


def observed(kind: str, name: str, folder: Path, group: str = "") -> Scene:
    """The scene of a folder with `sentinel2_10m.tif` and `reference_2m5.tif`."""
    return Scene(kind, name, group or name, read_reflectance(folder / "sentinel2_10m.tif"), read_reflectance(folder / "reference_2m5.tif"))


def aerial_scenes(data: Path, cache: Path) -> list[Scene]:
    """The real scenes that no model is trained on, as far as their files are there."""
    sources: list[tuple[str, str, np.ndarray]] = []
    held_out = data / "naip_1m" / f"{NAIP_TEST}.tif"
    if held_out.is_file():
        with rasterio.open(held_out) as dataset:
            sources.append(("naip 3607717", "naip 3607717", dataset.read()))
    for file in sorted((data / "chesapeake_1m").glob("*.npz")):
        planes, patch = np.load(file)["arr_0"][0], file.stem.rsplit("-", 1)[1]
        sources += [(f"chesapeake {patch} {date}", f"chesapeake {patch}", planes[i : i + 4]) for i, date in ((0, "new"), (4, "old"))]
    found = []
    for index, (name, group, planes) in enumerate(sources):
        folder = cache / name.replace(" ", "-")
        if not (folder / "world.json").is_file():
            with tempfile.TemporaryDirectory() as temporary:
                image = Path(temporary) / "aerial.tif"
                profile = {"driver": "GTiff", "count": 4, "height": planes.shape[1], "width": planes.shape[2], "dtype": "uint8"}
                with rasterio.open(image, "w", crs="EPSG:26917", transform=(1, 0, 0, 0, -1, planes.shape[1]), **profile) as dataset:
                    dataset.write(planes.astype(np.uint8))
                observe_aerial([image], folder, seed=index, overwrite=True)
        found.append(observed("real", name, folder, group))
    return found


def blind_scenes(data: Path, side: int = 96, count: int = 6) -> list[Scene]:
    """Windows of the real Sentinel-2 image, evenly spread over those without a pixel of no-data."""
    folder = data / "sentinel2_theia_gers"
    if not folder.is_dir():
        return []
    with tempfile.TemporaryDirectory() as temporary:
        stack(open_product(folder), BANDS, Path(temporary) / "image.vrt")
        image = read_reflectance(Path(temporary) / "image.vrt")
    corners = [(y, x) for y in range(0, image.shape[0] - side + 1, side) for x in range(0, image.shape[1] - side + 1, side)]
    whole = [(y, x) for y, x in corners if image[y : y + side, x : x + side].min() > -0.5]
    chosen = [whole[round(i * (len(whole) - 1) / max(1, count - 1))] for i in range(min(count, len(whole)))]
    return [Scene("blind", f"gers {y} {x}", f"gers {y} {x}", image[y : y + side, x : x + side]) for y, x in chosen]


# --- models ---------------------------------------------------------------------------------------------------------------------


def multiplications(folder: ModelFolder, side: int = 64) -> float:
    """Multiplications per output pixel of all convolutions in the SavedModel's graph, whatever wrote it, on a `side` x `side` input."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    name, bands = folder.sidecar.input.name, len(folder.sidecar.input.bands)
    spec = tf.TensorSpec((1, side, side, bands), folder.signature.structured_input_signature[1][name].dtype)
    graph = convert_variables_to_constants_v2(tf.function(lambda lr: folder.signature(**{name: lr})).get_concrete_function(spec)).graph
    total = 0
    for node in graph.get_operations():
        if node.type in ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput"):
            weights = node.inputs[1].shape.num_elements()
            # Each weight is used once per place: of the output, or of the input where a transposed convolution spreads it.
            places = node.inputs[2].shape if node.type == "Conv2DBackpropInput" else node.outputs[0].shape
            total += weights * (places[1] * places[2] if node.get_attr("data_format") == b"NHWC" else places[2] * places[3])
    return total / (side * folder.sidecar.factor) ** 2


def open_models(paths: list[str], seeds: list[int], temporary: Path) -> tuple[list[Entry], list[str]]:
    """The two baselines and the models asked for; remarks on those that cannot be compared. Refuses seeds of a model's training."""
    entries, remarks = [], []
    for kind in ("bicubic", "lanczos"):
        entries.append(Entry(kind, write_baseline(kind, temporary / kind)))
    for path in paths:
        try:
            folder = ModelFolder.open(path)
        except OtbsrError as error:
            remarks.append(f"{path}: left out ({error})")
            continue
        side = folder.sidecar
        if side.factor != FACTOR or side.input.bands != BANDS or side.output.bands != BANDS:
            remarks.append(f"{path}: left out (x{side.factor}, bands {' '.join(side.input.bands)}; compared here: x{FACTOR}, {' '.join(BANDS)})")
            continue
        past = side.training.get("history", [])
        seen = set(side.training.get("seeds", [])).union(*(run.get("seeds", []) for run in past))
        if seen & set(seeds):
            raise UsageError(f"{path}: was trained on seeds {sorted(seen & set(seeds))}; give others with --seeds")
        entries.append(Entry(side.name, folder))
    for entry in entries:
        entry.operations = multiplications(entry.folder)
    return entries, remarks


def run(entries: list[Entry], scenes: list[Scene], thin: int = 4) -> None:
    """Every model on every scene, in turn; heavy ones on every `thin`-th of a kind."""
    seen = dict.fromkeys({scene.kind for scene in scenes}, 0)
    for index, scene in enumerate(scenes):
        number = seen[scene.kind]
        seen[scene.kind] += 1
        for entry in entries:
            if entry.operations > HEAVY and number % thin:
                continue
            side = entry.folder.sidecar
            dn = np.rint(scene.lr / side.input.scale).astype(np.float32)
            if not entry.rows:
                entry.folder(dn)  # the first run compiles
            start = time.perf_counter()
            image = entry.folder(dn) * np.float32(side.output.scale)
            pixels = (dn.shape[0] + 2 * side.margin) * (dn.shape[1] + 2 * side.margin)
            entry.seconds.setdefault(pixels, []).append(time.perf_counter() - start)
            entry.rows[scene.name] = scores(image, scene.lr, scene.reference)
        print(f"\r{index + 1} of {len(scenes)} scenes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


# --- tables ---------------------------------------------------------------------------------------------------------------------

COLUMNS = {
    "psnr": ("PSNR dB", ".2f"),
    "sam": ("SAM deg", ".2f"),
    "gradient_spectrum": ("grad.spec", ".3f"),
    "improvement": ("improve", ".3f"),
    "omission": ("omit", ".3f"),
    "hallucination": ("halluc", ".3f"),
    "shift": ("shift px", ".3f"),
    "consistency": ("consist.", ".5f"),
    "spectral_consistency": ("cons.deg", ".3f"),
}


def print_tables(entries: list[Entry], scenes: list[Scene]) -> None:
    """Means of all measures for each kind of scene, one line a model."""
    for kind in dict.fromkeys(scene.kind for scene in scenes):
        names = [scene.name for scene in scenes if scene.kind == kind]
        columns = {key: value for key, value in COLUMNS.items() if key in entries[0].rows[names[0]]}
        print(f"\n{kind}: {len(names)} scenes of {len({s.group for s in scenes if s.kind == kind})} grounds, means")
        print(f"{'model':<18}" + "".join(f"{title:>10}" for title, _ in columns.values()) + f"{'mult/px':>12}{'s/Mpx in':>10}")
        for entry in entries:
            own = [name for name in names if name in entry.rows]
            values = [format(float(np.mean([entry.rows[name][key] for name in own])), style) for key, (_, style) in columns.items()]
            some = "" if len(own) == len(names) else f"  ({len(own)} scenes)"
            print(f"{entry.name:<18}" + "".join(f"{value:>10}" for value in values) + f"{entry.operations:>12,.0f}{entry.pace:>10.2f}{some}")


@dataclass
class Bench:
    """What was measured, and the answers that are read from it."""

    entries: list[Entry]
    scenes: list[Scene]
    records: list[dict[str, Any]] = field(default_factory=list)

    def role(self, role: str) -> Entry | None:
        """The first model that is bicubic, lanczos, f-base, f-scratch, f-light, p or sr4rs, by its name and method."""
        for entry in self.entries:
            name, method = entry.name.lower(), entry.folder.sidecar.method
            fits = {
                "p": name.startswith("p") and method == "perceptual",
                "f-base": name.startswith("f-base") and "scratch" not in name and method == "fidelity",
                "f-scratch": name.startswith("f-base") and "scratch" in name,
                "f-light": name.startswith("f-light") and method == "fidelity",
                "sr4rs": "sr4rs" in name,
            }
            if fits.get(role, name == role):
                return entry
        return None

    def common(self, kind: str, *entries: Entry) -> list[Scene]:
        """The scenes of a kind that all these models ran on, in order."""
        return [scene for scene in self.scenes if scene.kind == kind and all(scene.name in entry.rows for entry in entries)]

    def values(self, entry: Entry, measure: str, kind: str, *others: Entry) -> list[float]:
        """A measure of one model on all scenes of a kind (that the others ran on too), in order; empty where it is not defined."""
        rows = [entry.rows[scene.name] for scene in self.common(kind, entry, *others)]
        return [row[measure] for row in rows if measure in row]

    def compare(self, one: str, other: str, measure: str, kind: str) -> dict[str, Any] | None:
        """Paired difference of two roles with its interval and the worst scene; None where one is absent or nothing is measured."""
        first, second = self.role(one), self.role(other)
        if first is None or second is None or first is second:
            return None
        a, b = self.values(first, measure, kind, second), self.values(second, measure, kind, first)
        if not a:
            return None
        names, groups = zip(*[(scene.name, scene.group) for scene in self.common(kind, first, second)], strict=True)
        interval = paired(a, b, groups)
        gaps = [x - y for x, y in zip(a, b, strict=True)]
        worst = int(np.argmin(gaps) if measure in ("psnr", "improvement") else np.argmax(gaps))
        record = {"comparison": f"{first.name} - {second.name}", "measure": measure, "kind": kind, "mean": interval.value, "low": interval.low}
        record |= {"high": interval.high, "worst": gaps[worst], "worst_scene": names[worst], "scenes": len(gaps), "grounds": len(set(groups))}
        self.records.append(record)
        return record


PAIRS = [
    ("f-base", "bicubic", "psnr"),
    ("f-base", "lanczos", "psnr"),
    ("f-light", "bicubic", "psnr"),
    ("f-light", "lanczos", "psnr"),
    ("f-light", "f-base", "psnr"),
    ("f-base", "sr4rs", "psnr"),
    ("f-scratch", "sr4rs", "psnr"),
    ("f-scratch", "bicubic", "psnr"),
    ("sr4rs", "bicubic", "psnr"),
    ("p", "f-base", "psnr"),
    ("p", "f-base", "gradient_spectrum"),
    ("p", "f-base", "spectral_consistency"),
    ("p", "f-base", "improvement"),
    ("p", "f-base", "hallucination"),
    ("p", "sr4rs", "hallucination"),
]


def print_comparisons(bench: Bench) -> None:
    """All paired differences, simulated and real."""
    print("\npaired differences, mean [95 % interval], worst scene")
    for one, other, measure in PAIRS:
        for kind in ("simulated", "real"):
            r = bench.compare(one, other, measure, kind)
            if r:
                span = f"{r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
                print(f"{r['comparison']:<30}{measure:<22}{kind:<11}{span:<28}{r['worst']:+.3f} ({r['worst_scene']})")


@dataclass
class Limits:
    """Issue 4's limits, each met, not met or not measured, with the numbers; `print_comparisons` must have been called."""

    bench: Bench

    def say(self, text: str, met: bool | None, numbers: str) -> None:
        """Print and keep one verdict."""
        word = {True: "met", False: "NOT met", None: "not measured"}[met]
        print(f"{word:<13} {text}: {numbers}")
        self.bench.records.append({"limit": text, "verdict": word, "numbers": numbers})

    def difference(self, one: str, other: str, kind: str) -> dict[str, Any] | None:
        """The record of the PSNR of one role against the other's."""
        first, second = self.bench.role(one), self.bench.role(other)
        wanted = (f"{first.name} - {second.name}" if first and second else "", "psnr", kind)
        return next((r for r in self.bench.records if (r.get("comparison"), r.get("measure"), r.get("kind")) == wanted), None)

    def at_least(self, text: str, one: str, other: str, kind: str, least: float) -> None:
        """A limit on a mean difference of PSNR."""
        r = self.difference(one, other, kind)
        if r is None:
            self.say(text, None, f"{one} or {other} absent, or no {kind} scene")
        else:
            self.say(text, r["mean"] >= least, f"{r['mean']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}] dB; wanted {least:+.1f}")

    def ratio(self, text: str, one: str, other: str, measure: str, greatest: float) -> None:
        """A limit on the ratio of two roles' means of a measure, for simulated and real scenes."""
        first, second = self.bench.role(one), self.bench.role(other)
        for kind in ("simulated", "real"):
            values = [self.bench.values(a, measure, kind, b) for a, b in ((first, second), (second, first)) if a and b]
            if len(values) < 2 or not values[0]:
                self.say(f"{text}, {kind}", None, f"{one} or {other} absent, or no {kind} scene")
            else:
                a, b = (float(np.mean(v)) for v in values)
                self.say(
                    f"{text}, {kind}", a <= greatest * b, f"{a:.3f} against {b:.3f}, {100 * (1 - a / b):+.0f} % better; wanted {100 * (1 - greatest):+.0f} %"
                )

    def fidelity(self) -> None:
        """F's quality and cost."""
        bench = self.bench
        self.at_least("F-base over bicubic on unseen landscapes", "f-base", "bicubic", "simulated", 3.0)
        self.at_least("F-base over Lanczos on unseen real scenes", "f-base", "lanczos", "real", 1.8)
        found = [r for kind in ("simulated", "real") if (r := self.difference("f-base", "lanczos", kind))]
        least = min(found, key=lambda r: r["worst"], default=None)
        self.say(
            "F-base never below Lanczos",
            least and least["worst"] >= 0,
            f"least {least['worst']:+.2f} dB on {least['worst_scene']}" if least else "f-base absent",
        )
        for kind in ("simulated", "real"):
            self.at_least(f"F-light against F-base, {kind}", "f-light", "f-base", kind, -0.3)
        light, base, rival = (bench.role(role) for role in ("f-light", "f-base", "sr4rs"))
        numbers = f"{base.pace / light.pace:.2f}x ({light.pace:.2f}, {base.pace:.2f} s/Mpx)" if light and base else "f-light or f-base absent"
        self.say("F-light at least 4x faster than F-base", base.pace >= 4 * light.pace if light and base else None, numbers)
        for kind in ("simulated", "real"):
            self.at_least(f"F-base, trained as long, against SR4RS's generator, {kind}", "f-scratch", "sr4rs", kind, 0.5)
            self.at_least(f"F-base as shipped against SR4RS's generator, {kind}", "f-base", "sr4rs", kind, 0.5)
        share = rival.operations / base.operations if rival and base else None
        numbers = f"{share:.0f}x ({base.operations:,.0f}, {rival.operations:,.0f})" if base and rival else "f-base or sr4rs absent"
        self.say("F-base: 50x fewer operations per output pixel than SR4RS's generator", share and share >= 50, numbers)

    def perceptual(self) -> None:
        """P's quality."""
        self.ratio("P's gradient-spectrum distance against F-base's", "p", "f-base", "gradient_spectrum", 0.75)
        self.ratio("P's hallucination against SR4RS's generator's", "p", "sr4rs", "hallucination", 1.0)
        sharp, text = self.bench.role("p"), "P's spectral angle to the input under 1 degree"
        kinds = {kind: self.bench.values(sharp, "spectral_consistency", kind) for kind in ("simulated", "real", "blind")} if sharp else {}
        means = {kind: float(np.mean(values)) for kind, values in kinds.items() if values}
        self.say(text, max(means.values()) < 1 if means else None, ", ".join(f"{k} {v:.3f}" for k, v in means.items()) or "p absent")

    def radiometry_and_place(self, entry: Entry) -> None:
        """Consistency and shift of one model."""
        kinds = {kind: self.bench.values(entry, "consistency", kind) for kind in ("simulated", "real", "blind")}
        highest = max(max(values) for values in kinds.values() if values)
        means = ", ".join(f"{kind} {np.mean(values):.5f}" for kind, values in kinds.items() if values)
        self.say(f"{entry.name}: consistency RMSE under 0.003 on every scene", highest < 0.003, f"means {means}; highest {highest:.5f}")
        for kind in ("simulated", "real"):
            axes = [self.bench.values(entry, f"shift_{axis}", kind) for axis in ("rows", "columns")]
            if axes[0]:
                groups = [scene.group for scene in self.bench.common(kind, entry)]
                found = [paired(values, [0.0] * len(values), groups) for values in axes]
                length = math.hypot(*(interval.value for interval in found))
                spans = ", ".join(f"{name} {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for name, i in zip(("rows", "columns"), found, strict=True))
                alone = max(self.bench.values(entry, "shift", kind))
                self.say(f"{entry.name}: mean shift under 0.05 px, {kind}", length < 0.05, f"{length:.3f} ({spans}); highest of one scene {alone:.3f}")


def print_limits(bench: Bench) -> None:
    """All limits of issue 4 that images can tell."""
    print("\nlimits (by the mean over scenes; intervals beside)")
    limits = Limits(bench)
    limits.fidelity()
    limits.perceptual()
    for entry in [entry for role in ("f-light", "f-base", "p") if (entry := bench.role(role))]:
        limits.radiometry_and_place(entry)


def main() -> None:
    """Make the scenes, run the models, print tables, differences and limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[str(ROOT / "models" / "f-light-x4")], help="model folders")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, help="of the simulated landscapes")
    parser.add_argument("--thin", type=int, default=4, help="heavy models run on every THIN-th scene of a kind [%(default)s]")
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data", help="folder with naip_1m, chesapeake_1m, sentinel2_theia_gers")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "quality", help="where scenes are made and kept")
    parser.add_argument("--out", type=Path, help="JSON lines with every number [CACHE/scores.jsonl]")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            entries, remarks = open_models(options.models, options.seeds, Path(temporary))
            options.cache.mkdir(parents=True, exist_ok=True)
            scenes = landscapes(options.seeds, options.cache) + aerial_scenes(options.data, options.cache) + blind_scenes(options.data)
            if not scenes:
                raise UsageError("no seed and no real data: nothing to measure; give --seeds or --data")
            run(entries, scenes, options.thin)
    except OtbsrError as error:
        raise SystemExit(f"quality: error: {error}") from None
    bench = Bench(entries, scenes)
    for entry in entries:
        side = entry.folder.sidecar
        bench.records.append({"model": entry.name, "method": side.method, "multiplications": entry.operations, "seconds_per_megapixel": entry.pace})
        bench.records += [
            {"model": entry.name, "kind": scene.kind, "scene": scene.name, **entry.rows[scene.name]} for scene in scenes if scene.name in entry.rows
        ]
    print_tables(entries, scenes)
    print_comparisons(bench)
    print_limits(bench)
    kinds = {scene.kind for scene in scenes}
    for remark in [*remarks, *(f"no {kind} scene: its data is not there" for kind in ("simulated", "real", "blind") if kind not in kinds)]:
        print(remark)
    out = options.out or options.cache / "scores.jsonl"
    out.write_text("".join(json.dumps(record) + "\n" for record in bench.records), encoding="utf-8")
    print(f"\nevery number: {out}")


if __name__ == "__main__":
    main()
