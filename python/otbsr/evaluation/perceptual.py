"""LPIPS (Zhang et al. 2018) and DISTS (Ding et al. 2020): distances in the features of networks of photographs, with weights that the user has.

Both were fitted to torchvision's VGG16 (LPIPS also to its AlexNet), channel by channel, so that those networks are wanted, and Keras'
VGG16, which was trained apart, is not one of them. Features are counted at the image's edges as the authors' programs count them; around
pixels without data they are left out as far as the network sees.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from otbsr.errors import InputError, MissingToolError, UsageError
from otbsr.evaluation.measures import Score, Sums, finite, whole
from otbsr.evaluation.opensr import bilinear
from otbsr.evaluation.windows import Array, Block, Mask, Plane, Scene
from otbsr.products.tensor import read_tensors

WHITE = 0.3
"""Reflectance that the networks see as white; black is 0."""
COLOURS = (("B4", "B3", "B2"), ("red", "green", "blue"))
"""Names of the bands that the networks see."""
STRIDE = 16
"""Pixels from one of the deepest features to the next, in every network here: windows begin at multiples of it."""
SHIFT, SCALE = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], np.float32)
"""LPIPS version 0.1 takes the first from colours of -1 to 1 and divides by the second."""
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
"""DISTS does the same with colours of 0 to 1."""
STABLE = 1e-6
"""c1 and c2 of DISTS."""
STRIP = 64
"""Rows of features whose sums are counted in float64 at a time."""
SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")
WANTED = (
    "expected torchvision's VGG16 (vgg16-*.pth) with LPIPS' vgg.pth or DISTS' weights.pt, or its AlexNet with LPIPS' alex.pth, "
    "as .pth, .pt, .safetensors or .npz"
)


# --- networks -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A convolution with its ReLU, the largest of neighbours, or DISTS' root of weighted squares; seen: its result is compared.

    size, stride, margin of zeros: pixels of what comes in; key: of the weights in torchvision's state dict; channels: of what comes out.
    """

    kind: Literal["conv", "largest", "squares"]
    size: int
    stride: int
    margin: int
    key: int = 0
    channels: int = 0
    seen: bool = False


LARGEST = Step("largest", 2, 2, 0)
SQUARES = Step("squares", 3, 2, 1)


def vgg16(pooling: Step, widths: Sequence[int] = (64, 128, 256, 512, 512)) -> tuple[Step, ...]:
    """VGG16's convolutions (Simonyan and Zisserman 2015), of which conv1_2, 2_2, 3_3, 4_3 and 5_3 are seen."""
    steps: list[Step] = []
    key = 0
    for stage, (depth, width) in enumerate(zip((2, 2, 3, 3, 3), widths, strict=True)):
        if stage:
            steps.append(pooling)
            key += 1
        for place in range(depth):
            steps.append(Step("conv", 3, 1, 1, key, width, place == depth - 1))
            key += 2
    return tuple(steps)


ALEXNET = (
    Step("conv", 11, 4, 2, 0, 64, True),
    Step("largest", 3, 2, 0),
    Step("conv", 5, 1, 2, 3, 192, True),
    Step("largest", 3, 2, 0),
    Step("conv", 3, 1, 1, 6, 384, True),
    Step("conv", 3, 1, 1, 8, 256, True),
    Step("conv", 3, 1, 1, 10, 256, True),
)
NETWORKS = {"vgg16": vgg16(LARGEST), "alexnet": ALEXNET}
NAMES = {"vgg16": "VGG16", "alexnet": "AlexNet"}


def channels(steps: Sequence[Step]) -> tuple[int, ...]:
    """Numbers of channels that are compared."""
    return tuple(step.channels for step in steps if step.seen)


def reach(steps: Sequence[Step], more: bool) -> int:
    """Pixels around a window that its features look at, and with `more` one further feature on each side; a multiple of `STRIDE`.

    The k-th feature lies at pixel k stride and looks at those from `before` in front of it to `after` behind; the window's first begins
    at its first pixel, its last one stride before its end.
    """
    stride, before, after, most = 1, 0, 0, 0
    for step in steps:
        before += stride * step.margin
        after += stride * (step.size - 1 - step.margin)
        stride *= step.stride
        if step.seen:
            most = max(most, before + more * stride, after + 1 - stride + more * stride)
    return -(-most // STRIDE) * STRIDE


Weights = Mapping[int, tuple[Any, Any]]
"""Kernels [size, size, channels in, channels out] and biases by key."""
Seen = tuple[int, list[Any], "Mask | None"]
"""Stride, features of image and reference [rows, columns, channels], and which of them count (None: all)."""


def features(steps: Sequence[Step], weights: Weights, images: Sequence[Array], kept: Mask | None) -> Iterator[Seen]:
    """What is compared of the images [rows, columns, 3], one layer after the other."""
    from keras import ops

    planes = [ops.convert_to_tensor(image[None]) for image in images]
    stride = 1
    for step in steps:
        if min(planes[0].shape[1:3]) + 2 * step.margin < step.size:
            return  # too small for this layer: nothing of it and what follows
        for index in range(len(planes)):
            planes[index] = applied(step, weights, planes[index])
        stride *= step.stride
        if kept is not None:
            kept = whole(np.pad(kept, step.margin, constant_values=True), step.size)[:: step.stride, :: step.stride]
        if step.seen:
            yield stride, [plane[0] for plane in planes], kept


def applied(step: Step, weights: Weights, planes: Any) -> Any:
    """One step on features [1, rows, columns, channels]."""
    from keras import ops

    if step.kind == "largest":
        return ops.max_pool(planes, step.size, step.stride, "valid", "channels_last")
    margins = [[0, 0], [step.margin] * 2, [step.margin] * 2, [0, 0]]
    if step.kind == "squares":  # weights 1/4, 1/2, 1/4 along both axes
        squares = ops.pad(ops.square(planes), margins)
        squares = (squares[:, :-2:2] + squares[:, 2::2]) / 4 + squares[:, 1:-1:2] / 2
        squares = (squares[:, :, :-2:2] + squares[:, :, 2::2]) / 4 + squares[:, :, 1:-1:2] / 2
        return ops.sqrt(squares + 1e-12)
    kernel, bias = weights[step.key]
    if step.stride > 1:
        return ops.relu(ops.conv(ops.pad(planes, margins), kernel, step.stride, "valid", "channels_last") + bias)
    return ops.relu(ops.conv(planes, kernel, 1, "same", "channels_last") + bias)


# --- distances ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A window of image and reference as the networks see it, [rows, columns, 3] with 0 as black and 1 as white, cut at the image's edges.

    kept: which pixels count, None where all do. before: rows and columns in front of the window's own; size: its own; last: whether they
    end with the image.
    """

    images: tuple[Array, Array]
    kept: Mask | None
    before: tuple[int, int]
    size: tuple[int, int]
    last: tuple[bool, bool]

    def own(self, stride: int) -> tuple[slice, slice]:
        """The window's own features, of those of the whole cut; a window that ends with the image has all that are left."""
        ends = [None if last else (before + size) // stride for before, size, last in zip(self.before, self.size, self.last, strict=True)]
        rows, columns = (slice(before // stride, end) for before, end in zip(self.before, ends, strict=True))
        return rows, columns


class Lpips:
    """LPIPS: squared differences of features scaled to length 1, weighted by channel, their mean over the image, added up over layers."""

    def __init__(self, name: str, steps: Sequence[Step], weights: Weights, lines: Sequence[Array]) -> None:
        self.name, self.steps, self.weights, self.lines = name, steps, weights, lines
        self.arrays = 1

    def margin(self, drawn: bool) -> int:
        """Pixels around a window that are needed: one feature more where a map is drawn between them."""
        return reach(self.steps, drawn)

    def layers(self, cut: Cut) -> Iterator[tuple[int, Plane, Mask | None]]:
        """(stride, differences [rows, columns], which count) by layer."""
        from keras import ops

        images = [(2 * image - 1 - SHIFT) / SCALE for image in cut.images]
        for number, (stride, seen, kept) in enumerate(features(self.steps, self.weights, images, cut.kept)):
            first, second = (plane / (ops.sqrt(ops.sum(ops.square(plane), -1, keepdims=True)) + 1e-10) for plane in seen)
            difference = ops.sum(ops.square(first - second) * self.lines[number], -1)
            yield stride, ops.convert_to_numpy(difference).astype(np.float64), kept

    def look(self, cut: Cut, drawn: bool) -> tuple[Sums, Plane | None]:
        """(number of features and sum of differences by layer; the map of the window where it is drawn)."""
        total = np.zeros((len(self.lines), 2))
        height, width = cut.images[0].shape[:2]
        plane = np.zeros((height, width)) if drawn else None
        number = -1
        for number, (stride, difference, kept) in enumerate(self.layers(cut)):
            own = difference[cut.own(stride)]
            used = own if kept is None else own[kept[cut.own(stride)]]
            total[number] = used.size, used.sum()
            if plane is not None:
                plane += stretched(difference if kept is None else np.where(kept, difference, np.nan), stride, plane.shape)
        if plane is not None:
            if number < len(self.lines) - 1:  # too small for the last layers
                plane[:] = np.nan
            plane = plane[tuple(slice(before, before + size) for before, size in zip(cut.before, cut.size, strict=True))]
        return (total,), plane

    def score(self, total: Sums) -> float | None:
        """The distance; None where a layer has nothing that counts."""
        number, sums = total[0].T
        return float((sums / number).sum()) if number.all() else None


def stretched(plane: Plane, stride: int, shape: Sequence[int]) -> Plane:
    """Features as pixels, linear between them; pixels behind the last feature have its value."""
    if not plane.size:
        return np.full(shape, np.nan)
    more = [(0, max(-(-length // stride) - size, 0)) for length, size in zip(shape, plane.shape, strict=True)]
    found = np.pad(plane, more, mode="edge")[..., None]
    return np.asarray((bilinear(found, stride) if stride > 1 else found)[: shape[0], : shape[1], 0])


class Dists:
    """DISTS: 1 - the weighted similarity of means (texture) and of covariances (structure) of each channel over the whole image."""

    name = "dists"

    def __init__(self, steps: Sequence[Step], weights: Weights, alpha: Array, beta: Array) -> None:
        self.steps, self.weights = steps, weights
        self.parts = 3, *channels(steps)
        share = np.concatenate([alpha, beta]) / (alpha.sum() + beta.sum())
        ends = np.cumsum(self.parts)[:-1]
        self.alpha, self.beta = (np.split(part, ends) for part in np.split(share, 2))
        self.arrays = len(self.parts)

    def margin(self, drawn: bool) -> int:
        """Pixels around a window that are needed."""
        return reach(self.steps, False)

    def look(self, cut: Cut, drawn: bool) -> tuple[Sums, None]:
        """By layer [6, channels]: number of features; x, x^2, y, y^2, xy of image and reference."""
        from keras import ops

        found = [np.zeros((6, part)) for part in self.parts]
        images = [(image - MEAN) / DEVIATION for image in cut.images]
        layers: Iterator[Seen] = itertools.chain([(1, list(cut.images), cut.kept)], features(self.steps, self.weights, images, cut.kept))
        for number, (stride, seen, kept) in enumerate(layers):
            rows, columns = cut.own(stride)
            first, second = (ops.convert_to_numpy(plane)[rows, columns] for plane in seen)
            used = None if kept is None else kept[rows, columns]
            for top in range(0, len(first), STRIP):
                some = slice(top, top + STRIP)
                x, y = ((plane[some] if used is None else plane[some][used[some]]).reshape(-1, plane.shape[-1]).astype(np.float64) for plane in (first, second))
                pairs = [np.einsum("ij,ij->j", a, b) for a, b in ((x, x), (y, y), (x, y))]
                found[number] += np.stack([np.full(x.shape[1], float(len(x))), x.sum(0), pairs[0], y.sum(0), pairs[1], pairs[2]])
        return tuple(found), None

    def score(self, total: Sums) -> float | None:
        """The distance; None where a layer has nothing that counts."""
        similar = 0.0
        for alpha, beta, sums in zip(self.alpha, self.beta, total, strict=True):
            if not sums[0].all():
                return None
            mx, xx, my, yy, xy = sums[1:] / sums[0]
            vx, vy = np.maximum(xx - mx * mx, 0), np.maximum(yy - my * my, 0)
            similar += float(np.sum(alpha * (2 * mx * my + STABLE) / (mx * mx + my * my + STABLE)))
            similar += float(np.sum(beta * (2 * (xy - mx * my) + STABLE) / (vx + vy + STABLE)))
        return 1 - similar


# --- weights --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Perception:
    """Distances that a folder of weights allows, and the reflectance that they see as white."""

    distances: tuple[Lpips | Dists, ...]
    white: float = WHITE

    @property
    def maps(self) -> tuple[str, ...]:
        """Distances of which there are maps."""
        return tuple(one.name for one in self.distances if isinstance(one, Lpips))


def read_perception(folder: Path, white: float = WHITE, threads: int | None = None) -> Perception:
    """The distances that the weights in `folder` allow, told by the tensors in its files and not by their names.

    threads: limit of TensorFlow's. Raises `InputError` for weights that are missing, damaged, or others; `UsageError`; `MissingToolError`
    without Keras.
    """
    if not (math.isfinite(white) and white > 0):
        raise UsageError(f"--white {white:g}: expected a reflectance above 0, such as {WHITE}")
    found = weights_in(folder)
    networks = {name: convolutions(*found[name], steps) for name, steps in NETWORKS.items() if name in found}
    distances: list[Lpips | Dists] = []
    for name, title in (("alexnet", "lpips_alex"), ("vgg16", "lpips_vgg")):
        if title in found and require(name, networks, found[title][0]):
            distances.append(Lpips(title, NETWORKS[name], networks[name], lines_of(*found[title])))
    if "dists" in found and require("vgg16", networks, found["dists"][0]):
        steps, shape = vgg16(SQUARES), (1, 3 + sum(channels(NETWORKS["vgg16"])), 1, 1)
        alpha, beta = (checked(*found["dists"], name, shape).ravel().astype(np.float64) for name in ("alpha", "beta"))
        distances.append(Dists(steps, networks["vgg16"], alpha, beta))
    if not distances:
        others = f"; its {', '.join(NAMES[name] for name in networks)} alone gives no distance" if networks else ""
        keras_file = next((path.name for path in sorted(folder.glob("*.h5"))), None)
        others += f"; {keras_file} is no use: Keras' networks were trained apart, and their channels are not those of LPIPS and DISTS" if keras_file else ""
        raise InputError(f"{folder} (--perceptual): holds no weights of LPIPS or DISTS{others}; {WANTED}")
    ready(threads)
    return Perception(tuple(distances), white)


def ready(threads: int | None) -> None:
    """Import Keras and limit TensorFlow's threads; raises `MissingToolError` without Keras, `UsageError` when TensorFlow runs already."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    try:
        import keras
    except ImportError as error:
        raise MissingToolError("--perceptual: LPIPS and DISTS need Keras, which is not installed; pip install 'otbsr[cpu]' (or gpu)") from error
    if keras.backend.backend() == "tensorflow":
        from otbsr.methods.devices import limit_threads

        limit_threads(threads)


def weights_in(folder: Path) -> dict[str, tuple[Path, dict[str, Array]]]:
    """Files and their tensors by what they are: names of `NETWORKS`, lpips_vgg, lpips_alex, dists; other files are passed over."""
    if not folder.is_dir():
        raise InputError(f"{folder} (--perceptual): no such folder; {WANTED}")
    found: dict[str, tuple[Path, dict[str, Array]]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES:
            continue
        tensors = read_tensors(path, r"features\.\d+\.(weight|bias)$|lin\d\.model\.1\.weight$|(alpha|beta)$")
        what = kind_of(tensors)
        if what in found:
            raise InputError(f"{path}: is the same as {found[what][0].name}; leave one of the two in {folder}")
        if what:
            found[what] = path, tensors
    return found


def kind_of(tensors: Mapping[str, Array]) -> str | None:
    """What a file's tensors are: by their names, and by shape where names are the same."""
    for name, steps in NETWORKS.items():
        if {key for key in tensors if key.startswith("features.")} == {f"features.{s.key}.{part}" for s in steps if s.channels for part in ("weight", "bias")}:
            return name
    if {"alpha", "beta"} <= set(tensors):
        return "dists"
    lines = tuple(int(np.size(tensors[key])) for key in sorted(tensors) if re.match(r"lin\d", key))
    return {channels(ALEXNET): "lpips_alex", channels(NETWORKS["vgg16"]): "lpips_vgg"}.get(lines)


def require(name: str, networks: Mapping[str, Weights], path: Path) -> bool:
    """True; raises `InputError` where the network that a distance looks through is missing."""
    if name not in networks:
        raise InputError(f"{path}: needs torchvision's {NAMES[name]} beside it, which is missing; put its state dict (.pth) into {path.parent}")
    return True


def checked(path: Path, tensors: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """A tensor as float32; raises `InputError` for another shape, and for what is no number."""
    found = tensors[name]
    if found.shape != shape or found.dtype.kind != "f":
        raise InputError(f"{path}: {name} is {found.dtype} {list(found.shape)}, expected floating point {list(shape)}; fetch the file again")
    if not np.isfinite(found).all():
        raise InputError(f"{path}: {name} holds values that are no numbers; fetch the file again")
    return np.ascontiguousarray(found, np.float32)


def convolutions(path: Path, tensors: Mapping[str, Array], steps: Sequence[Step]) -> Weights:
    """A network's weights by key."""
    found, before = {}, 3
    for step in steps:
        if step.channels:
            kernel = checked(path, tensors, f"features.{step.key}.weight", (step.channels, before, step.size, step.size))
            bias = checked(path, tensors, f"features.{step.key}.bias", (step.channels,))
            found[step.key] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), bias
            before = step.channels
    return found


def lines_of(path: Path, tensors: Mapping[str, Array]) -> list[Array]:
    """LPIPS' weights by channel of each layer; raises `InputError` for one below 0, which would make differences lower the distance."""
    lines = [checked(path, tensors, f"lin{i}.model.1.weight", (1, tensors[f"lin{i}.model.1.weight"].size, 1, 1)).ravel() for i in range(5)]
    if min(float(line.min()) for line in lines) < 0:
        raise InputError(f"{path}: holds weights below 0, expected LPIPS' that are 0 or more; fetch the file again")
    return lines


# --- windows --------------------------------------------------------------------------------------------------------------------


class Perceptual:
    """LPIPS and DISTS between image and reference as sums over windows: what one run over the whole gives, but for float32's rounding."""

    def __init__(self, scene: Scene, perception: Perception, drawn: bool = False) -> None:
        """Raises `UsageError` without a reference, `InputError` for bands that are no colours."""
        if scene.reference is None:
            raise UsageError("--perceptual: LPIPS and DISTS compare with a reference; give --reference")
        names = scene.names
        colours = next((trio for trio in COLOURS if set(trio) <= set(names)), None)
        if colours is None:
            raise InputError(
                f"{scene.image.path}: bands {', '.join(names)}, expected {', '.join(COLOURS[0])} (or {', '.join(COLOURS[1])}) among them, which the networks "
                f"of --perceptual see as red, green and blue; name the bands in the file, or leave it out"
            )
        self.bands, self.colours = [names.index(name) for name in colours], colours
        self.scene, self.perception, self.drawn = scene, perception, drawn
        self.margin = max(one.margin(drawn) for one in perception.distances)
        self.last: tuple[Block, Sums, dict[str, Plane]] | None = None

    def cut(self, block: Block, margin: int) -> Cut:
        """What a distance with this margin looks at: it ends with the image within the border, where the network has zeros of its own."""
        assert block.seen is not None
        grid, border = self.scene.image.grid, self.scene.border
        spans, before, last = [], [], []
        for begin, size, total in ((block.row, block.height, grid.height), (block.column, block.width, grid.width)):
            low, high = max(begin - margin, border), min(begin + size + margin, total - border)
            spans.append(slice(low - begin + margin, high - begin + margin))
            before.append(begin - low)
            last.append(begin + size == total - border)
        kept = block.core(block.common, margin)[tuple(spans)]
        white, images = self.perception.white, []
        for planes in (block.image, block.seen):
            colours = np.stack([block.core(planes[band], margin)[tuple(spans)] for band in self.bands], -1)
            images.append((np.clip(colours / white, 0, 1) * kept[..., None]).astype(np.float32))
        return Cut((images[0], images[1]), None if kept.all() else kept, (before[0], before[1]), (block.height, block.width), (last[0], last[1]))

    def look(self, block: Block) -> tuple[Sums, dict[str, Plane]]:
        """Sums and maps of a block; kept until the next, since both are asked for one after the other."""
        last = self.last
        if last is not None and last[0] is block:
            return last[1:]
        assert block.seen is not None
        kept = block.core(block.common)
        colours = np.stack([block.core(planes[band])[kept] for planes in (block.image, block.seen) for band in self.bands])
        found: list[Array] = [np.array([float(colours.size), float(((colours < 0) | (colours > self.perception.white)).sum())])]
        maps: dict[str, Plane] = {}
        for one in self.perception.distances:
            sums, plane = one.look(self.cut(block, one.margin(self.drawn)), self.drawn)
            found += sums
            if plane is not None:
                maps[one.name] = np.where(kept, plane, np.nan)
        self.last = block, tuple(found), maps
        return self.last[1:]

    def sums(self, block: Block) -> Sums:
        """Numbers of values, and of those beyond black and white; then the sums of each distance."""
        return self.look(block)[0]

    def planes(self, block: Block) -> dict[str, Plane]:
        """Maps of a block's core; NaN where a pixel, or what the network sees around it, does not count."""
        return self.look(block)[1]

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        found, at = {}, 1
        for one in self.perception.distances:
            value = one.score(total[at : at + one.arrays])
            found[one.name], at = Score(None if value is None else finite(value)), at + one.arrays
        return found

    def remarks(self, total: Sums) -> list[str]:
        """What a reader of the scores should know."""
        names, (number, beyond) = ", ".join(one.name for one in self.perception.distances), total[0]
        colours, share = ", ".join(self.colours), f"{beyond / number:.1%}" if number else "none"
        return [f"{names}: of {colours} with reflectance 0 to {self.perception.white:g} as black to white; {share} of the values lie beyond and were cut"]
