"""Import a SavedModel that has no `model.json`: find out by running it what the sidecar has to say, and refuse what cannot be served exactly.

The graph is run in a session, as TensorFlow's C API does in serving. What is found: the factor and how much of the border the model itself
removes (from the sizes of what it gives), the radius of the receptive field (from how far one column of pixels makes itself felt), and
whether blocks fit together (from windows of one image). What cannot be found has to be said: band names, units, metres.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from otbsr.errors import ModelError, UsageError, one_line
from otbsr.methods.model_folder import (
    GRAPH,
    SIDECAR,
    DType,
    ModelFolder,
    ModelInput,
    ModelOutput,
    Sidecar,
    as_type,
    new_model,
    require_new,
    write_sidecar,
)
from otbsr.progress import Report, silent

Method = Literal["fidelity", "perceptual", "baseline"]

TYPICAL = 0.2
"""Reflectance of a typical pixel: images for trials are made around it, since networks are not linear."""
REACH = 512
"""A receptive field with a larger radius (input pixels) is refused: blocks of that much margin serve nobody."""
EXACT = 1e-4
"""Blocks agree when they differ by less than this share of the largest output. Float32 sums in another order, and a network that normalises
enlarges that: SR4RS's layout with few channels comes to 2.5e-5. A network whose result depends on the block is off by much more."""


@dataclass(frozen=True)
class Layout:
    """What is known of a family of SavedModels that cannot be found by running them."""

    name: str
    input: re.Pattern[str]
    output: re.Pattern[str]
    bands: tuple[str, ...]
    spacing: float
    scale: float
    method: Method


SR4RS = Layout("SR4RS", re.compile(r"lr_input(:0)?"), re.compile(r"output_\d+(:0)?"), ("B4", "B3", "B2", "B8"), 10.0, 1e-4, "perceptual")
LAYOUTS = (SR4RS,)


@dataclass(frozen=True)
class Geometry:
    """How an output of the model lies on its input: `factor` output pixels per input pixel, `crop` output pixels fewer on each side."""

    factor: int
    crop: int


@dataclass(frozen=True)
class Imported:
    """What `import_model` made and found.

    radius: input pixels, of the receptive field. difference: the largest between blocks cut differently, in units of the output.
    response: mean output for a grey image of reflectance `grey`, as reflectance; far from it if the scales are wrong.
    """

    folder: ModelFolder
    layout: str
    radius: int
    difference: float
    response: float
    grey: float = TYPICAL


class NothingGivenError(ModelError):
    """Raised when the model fails on an image, or gives no pixel for it; a larger image may do."""


class NonLocalError(ModelError):
    """Raised when a pixel of the output depends on pixels at any distance."""


class Graph:
    """A signature of a SavedModel in a TensorFlow session on the CPU; the same loader as the C API's."""

    def __init__(self, folder: Path, signature: str = "") -> None:
        """Load it; raises `ModelError` (not a SavedModel, not loadable, no or several signatures)."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
        self.folder = folder
        self.signature, definition = choose_signature(folder, signature)
        self.inputs, self.outputs = dict(definition.inputs), dict(definition.outputs)
        import tensorflow as tf

        self._graph = tf.Graph()
        with self._graph.as_default():
            self._session = tf.compat.v1.Session(config=tf.compat.v1.ConfigProto(device_count={"GPU": 0}))  # a GPU rounds convolutions more
            loader = tf.compat.v1.saved_model.loader
            level, logger = tf.get_logger().level, tf.get_logger()
            logger.setLevel("ERROR")  # the loader says at each call that it is deprecated
            try:
                loader.load(self._session, ["serve"], str(folder))
            except Exception as error:  # TensorFlow raises what it likes: its own errors, RuntimeError, KeyError
                raise ModelError(f"{folder}: TensorFlow {tf.__version__} cannot load this SavedModel: {one_line(error)}; export it again") from error
            finally:
                logger.setLevel(level)

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def kind(self, info: Any) -> np.dtype:
        """Element type of an input or output."""
        import tensorflow as tf

        return np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)

    def run(self, source: str, output: str, image: NDArray[Any]) -> NDArray[np.float64]:
        """[h, w, bands] -> output of the model as [h', w', bands'], float64; raises `ModelError`, `h'` or `w'` may be 0."""
        import tensorflow as tf

        value = as_type(image, self.kind(self.inputs[source]))[None]
        try:
            given = self._session.run(self.outputs[output].name, {self.inputs[source].name: value})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise NothingGivenError(f"{self.folder}: fails on an image of {image.shape[1]} x {image.shape[0]} pixels: {one_line(error)}") from error
        if given.ndim == 3:  # [1, h, w]: one band
            given = given[..., None]
        if given.ndim != 4 or given.shape[0] != 1:
            raise ModelError(f"{self.folder}: output {output} has shape {list(given.shape)}, expected [1, rows, columns, bands]")
        return np.asarray(given[0], np.float64)


def import_model(
    source: str | Path,
    out: str | Path | None = None,
    *,
    in_place: bool = False,
    name: str = "",
    method: Method | None = None,
    bands: Sequence[str] = (),
    output_bands: Sequence[str] = (),
    factor: int | None = None,
    margin: int | None = None,
    spacing: float | None = None,
    scale: float | None = None,
    output_scale: float | None = None,
    dtype: DType | None = None,
    nodata: float | None = None,
    signature: str = "",
    input_name: str = "",
    output_name: str = "",
    licence: str = "",
    overwrite: bool = False,
    report: Report = silent,
) -> Imported:
    """Write the model folder `out` (a copy of the SavedModel `source` and its sidecar), or with `in_place` only `source`/model.json.

    What is given wins over what is found, but not against the model: `factor` and the number of bands must be the model's. A `margin`
    below the radius of the receptive field is taken as it is; the difference between blocks that it causes is reported.

    Args:
        source: SavedModel of a fully convolutional network, TensorFlow 1 or 2, with one image input.
        out: folder to make.
        in_place: write the sidecar beside the SavedModel instead of copying it.
        name: of the model; default the folder's.
        method: what the network was trained for.
        bands: of the input, in the model's order.
        output_bands: of the output; default those of the input.
        factor: input over output spacing.
        margin: input pixels discarded on each side of a block.
        spacing: metres between input pixels.
        scale: reflectance of one unit of the input.
        output_scale: reflectance of one unit of the output; default that of the input.
        dtype: pixel type of the product; default the output's if that is integer, int16 for scaled reflectances, else float32.
        nodata: of the product; default -10000, or 0 for unsigned types.
        signature: which, where the SavedModel has several.
        input_name: which input, where the signature has several and the others have defaults.
        output_name: which output; default the one that leaves out the least border.
        licence: of the weights.
        overwrite: replace `out`, or the sidecar.
        report: progress.

    Raises:
        ModelError: not a SavedModel, several signatures or inputs, a network that is not local or takes only some sizes, ...
        UsageError: options that contradict the model, or that are missing.
        OutputError: `out` exists or cannot be written.

    """
    source = Path(source)
    if (out is None) != in_place:
        raise UsageError("give either --out FOLDER for a copy with model.json, or --in-place to write model.json beside the SavedModel")
    target = source if out is None else Path(out)
    require_free(source, target, in_place, overwrite)
    report("import", 0.0)
    with Graph(source, signature) as graph:
        report("import", 0.3)
        entry = choose_input(graph, input_name)
        layout = next((known for known in LAYOUTS if known.input.fullmatch(entry) and any(map(known.output.fullmatch, graph.outputs))), None)
        bands = tuple(bands) or (layout.bands if layout else ())
        method = method or (layout.method if layout else None)
        require_known(graph, entry, bands, method)
        scale = scale if scale is not None else layout.scale if layout else 1e-4
        output_scale = output_scale if output_scale is not None else scale
        is_integer = graph.kind(graph.inputs[entry]).kind in "iub"
        trial = Trial(graph, entry, len(bands), max(1 / scale, 500) if is_integer else 1 / scale)  # whole numbers that differ
        key, geometry = choose_output(trial, output_name, factor)
        report("import", 0.5)
        output_bands = tuple(output_bands) or bands
        given = trial.run(key, trial.image(48 + 2 * geometry.crop, 48 + 2 * geometry.crop, grey=True))
        if given.shape[2] != len(output_bands):
            raise UsageError(f"{source}: output {key} has {given.shape[2]} bands, but {len(output_bands)} are named; give --output-bands with their names")
        if not np.isfinite(given).all():
            raise ModelError(f"{source}: output {key} is not finite for a grey image of {TYPICAL / scale:g}; check --scale, or the weights")
        radius = receptive_radius(trial, key, geometry)
        report("import", 0.8)
        least = -(-geometry.crop // geometry.factor)  # what the model removes must lie within the margin
        chosen = max(radius, least) if margin is None else margin
        if chosen < least:
            raise UsageError(f"--margin {margin} is smaller than the {least} input pixels that output {key} itself leaves out; give {least} or more")
        difference, largest = block_difference(trial, key, geometry, chosen)
        allowed = EXACT * largest + (1 if graph.kind(graph.outputs[key]).kind in "iu" else 0)
        if difference > allowed and (margin is None or margin >= radius):
            raise ModelError(
                f"{source}: a block run in other surroundings gives other pixels (by up to {difference:.3g} of {largest:.3g}) although {chosen} input "
                "pixels are discarded around it: the network depends on where a block begins (strides, windows); it cannot be served in blocks"
            )
        report("import", 0.9)
        kind: Any = dtype or product_type(graph.kind(graph.outputs[key]), output_scale)
        try:
            sidecar = Sidecar(
                name=name or target.resolve().name,
                method=method,  # type: ignore[arg-type]
                factor=geometry.factor,
                margin=chosen,
                input=ModelInput(signature=graph.signature, name=entry, bands=bands, spacing=spacing or (layout.spacing if layout else 10.0), scale=scale),
                output=ModelOutput(
                    name=key, bands=output_bands, scale=output_scale, dtype=kind, nodata=nodata if nodata is not None else 0 if kind[0] == "u" else -10000
                ),
                training={"data": f"not known to otbsr: imported from the SavedModel {source.resolve().name}" + (f" ({layout.name})" if layout else "")},
                metrics={"receptive_field_radius": radius, "block_difference": float(f"{difference:.3g}")},
                licence=licence,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{'.'.join(map(str, first['loc'])) or 'options'}: {first['msg']}") from error
    write(source, target, sidecar, in_place, overwrite)
    report("import", 1.0)
    return Imported(ModelFolder.open(target), layout.name if layout else "", radius, difference, float(given.mean()) * output_scale)


def require_free(source: Path, target: Path, in_place: bool, overwrite: bool) -> None:
    """Raise `OutputError` or `UsageError` before any work when the result could not be written."""
    if not in_place and target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"--out {target} is the SavedModel itself; give another folder, or --in-place to write {SIDECAR} there")
    existing = source / SIDECAR if in_place else target
    require_new(existing, overwrite)


def require_known(graph: Graph, entry: str, bands: Sequence[str], method: str | None) -> None:
    """Raise `UsageError` for what no trial can find out and nobody said, or what contradicts the input."""
    size = graph.inputs[entry].tensor_shape.dim
    channels = size[3].size if len(size) == 4 else -1
    missing = ([f"--bands with the names of its {channels if channels > 0 else ''} input bands".replace("  ", " ")] if not bands else []) + (
        ["--method fidelity, perceptual or baseline"] if method is None else []
    )
    if missing:
        raise UsageError(f"{graph.folder}: no layout that otbsr knows; give {' and '.join(missing)}")
    if channels > 0 and channels != len(bands):
        raise UsageError(f"{graph.folder}: input {entry} has {channels} bands, but {len(bands)} are named ({', '.join(bands)}); name them with --bands")
    if len(set(bands)) != len(bands):
        raise UsageError(f"--bands {','.join(bands)} names a band twice; band names must differ")


def choose_signature(folder: Path, wanted: str) -> tuple[str, Any]:
    """(name, SignatureDef) of the signature to serve; raises `ModelError`."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a TensorFlow SavedModel ({GRAPH} and variables)")
    if not (folder / GRAPH).is_file():
        inner = sorted(path.parent for path in folder.glob(f"*/{GRAPH}"))
        hint = f"; did you mean {inner[0]}?" if inner else ""
        raise ModelError(f"{folder}: no {GRAPH} in it; expected a TensorFlow SavedModel (tf.saved_model.save, model.export, simple_save){hint}")
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString((folder / GRAPH).read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelError(f"{folder / GRAPH}: is no SavedModel ({one_line(error)}); copy it again") from error
    tags = [set(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    served = [graph for graph, names in zip(saved.meta_graphs, tags, strict=True) if names == {"serve"}]
    if not served:
        found = "; ".join(", ".join(sorted(names)) or "none" for names in tags) or "no graph"
        raise ModelError(f"{folder}: no graph is tagged 'serve' (tags: {found}); export the model again for serving")
    signatures = {name: definition for name, definition in served[0].signature_def.items() if not name.startswith("__saved_model")}
    listed = ", ".join(sorted(signatures)) or "none"
    if wanted:
        if wanted not in signatures:
            raise ModelError(f"{folder}: no signature {wanted}; it has {listed}")
        return wanted, signatures[wanted]
    if "serving_default" in signatures:
        return "serving_default", signatures["serving_default"]
    if len(signatures) != 1:
        raise ModelError(f"{folder}: has {len(signatures)} signatures ({listed}) and none is serving_default; choose one with --signature")
    return next(iter(signatures.items()))


def choose_input(graph: Graph, wanted: str) -> str:
    """The input's key; raises `ModelError` when there are several, or it is no image of any size."""
    if wanted and wanted not in graph.inputs:
        raise ModelError(f"{graph.folder}: no input {wanted}; signature {graph.signature} has {', '.join(sorted(graph.inputs)) or 'none'}")
    if len(graph.inputs) != 1 and not wanted:
        raise ModelError(
            f"{graph.folder}: signature {graph.signature} has {len(graph.inputs)} inputs ({', '.join(sorted(graph.inputs)) or 'none'}), SuperResolution "
            "feeds one image; choose it with --input if the others have defaults, else run the model with TensorflowModelServe"
        )
    key = wanted or next(iter(graph.inputs))
    info = graph.inputs[key]
    shape = [dim.size for dim in info.tensor_shape.dim]
    if not info.tensor_shape.unknown_rank and len(shape) != 4:
        raise ModelError(f"{graph.folder}: input {key} has shape {shape}, expected [n, rows, columns, bands]")
    if len(shape) == 4 and (shape[1] > 0 or shape[2] > 0):
        raise ModelError(
            f"{graph.folder}: input {key} takes only images of {shape[2]} x {shape[1]} pixels; export the network with free rows and columns (None)"
        )
    if len(shape) == 4 and shape[0] > 1:
        raise ModelError(f"{graph.folder}: input {key} takes only batches of {shape[0]} images; export it for any number, or for 1")
    if graph.kind(info).kind not in "fiub":
        raise ModelError(f"{graph.folder}: input {key} is {graph.kind(info)}, expected numbers")
    return key


@dataclass(frozen=True)
class Trial:
    """Images made for trials, and the model run on them. `unit`: input of reflectance 1."""

    graph: Graph
    entry: str
    bands: int
    unit: float

    def image(self, rows: int, columns: int, seed: int = 0, grey: bool = False) -> NDArray[np.float64]:
        """An image around `TYPICAL`: brighter to one side and rough, so that no two windows have the same statistics; or plain grey."""
        if grey:
            return np.full((rows, columns, self.bands), TYPICAL * self.unit)
        random = np.random.default_rng(seed)
        y, x = np.linspace(-1, 1, rows)[:, None, None], np.linspace(-1, 1, columns)[None, :, None]
        return TYPICAL * self.unit * (1 + 0.4 * y + 0.3 * x + 0.25 * random.uniform(-1, 1, (rows, columns, self.bands)))

    def run(self, output: str, image: NDArray[Any]) -> NDArray[np.float64]:
        """See `Graph.run`."""
        return self.graph.run(self.entry, output, image)


def choose_output(trial: Trial, wanted: str, factor: int | None) -> tuple[str, Geometry]:
    """The output to serve and how it lies on the input: the one that leaves out the least border; raises `ModelError`, `UsageError`."""
    graph = trial.graph
    if wanted and wanted not in graph.outputs:
        raise ModelError(f"{graph.folder}: no output {wanted}; signature {graph.signature} has {', '.join(sorted(graph.outputs)) or 'none'}")
    found: dict[str, Geometry] = {}
    reasons: dict[str, str] = {}
    pending = [wanted] if wanted else sorted(graph.outputs)
    for side in (64, 128, 256, 512, 1024):  # an output may leave out more than a small image has; then one that leaves out less is better
        for key in list(pending):
            try:
                found[key] = geometry_of(trial, key, side)
            except ModelError as error:
                reasons[key] = str(error).removeprefix(f"{graph.folder}: ")
                if not isinstance(error, NothingGivenError):
                    pending.remove(key)
        if found:
            break
    if not found:
        raise ModelError(f"{graph.folder}: no output can be served: " + "; ".join(f"{key}: {reason}" for key, reason in reasons.items()))
    if factor is not None:
        if factor not in {geometry.factor for geometry in found.values()}:
            given = ", ".join(f"{key} {geometry.factor}" for key, geometry in found.items())
            raise UsageError(f"--factor {factor} is not the model's (found: {given}); leave it out")
        found = {key: geometry for key, geometry in found.items() if geometry.factor == factor}
    if len({geometry.factor for geometry in found.values()}) > 1:
        given = ", ".join(f"{key} {geometry.factor}" for key, geometry in found.items())
        raise ModelError(f"{graph.folder}: outputs have different factors ({given}); choose one with --output")
    least = min(geometry.crop for geometry in found.values())
    best = [key for key, geometry in found.items() if geometry.crop == least]
    if len(best) > 1:
        raise ModelError(f"{graph.folder}: several outputs would do ({', '.join(best)}); choose one with --output")
    return best[0], found[best[0]]


def geometry_of(trial: Trial, key: str, side: int) -> Geometry:
    """Factor and crop of an output, from the sizes of what the model gives for images of about `side`; raises `ModelError`."""
    folder, kind = trial.graph.folder, trial.graph.kind(trial.graph.outputs[key])
    if kind.kind not in "fiub":
        raise ModelError(f"{folder}: is {kind}, expected numbers")
    sizes = ((side, side + 5), (side + 11, side + 24))  # odd and even, no common divisor
    try:
        first, second = (trial.run(key, trial.image(*size)).shape[:2] for size in sizes)
    except NothingGivenError as error:
        if runs(trial, key, side):
            raise ModelError(
                f"{folder}: takes images of {side} x {side} pixels but not of {sizes[0][1]} x {sizes[0][0]}; SuperResolution needs a network that takes "
                "any size, run this one with TensorflowModelServe and its receptive and expression fields"
            ) from error
        raise
    if min(*first, *second) == 0:
        raise NothingGivenError(f"{folder}: is empty for an image of {side} x {side} pixels")
    factors = {(second[k] - first[k]) / (sizes[1][k] - sizes[0][k]) for k in (0, 1)}
    factor = factors.pop()
    crops = {(factor * size[k] - given[k]) / 2 for size, given in zip(sizes, (first, second), strict=True) for k in (0, 1)}
    crop = crops.pop()
    shown = f"output {key} is {first[1]} x {first[0]} pixels for an input of {sizes[0][1]} x {sizes[0][0]}"
    if factors or factor != int(factor) or not 1 <= factor <= 16:
        raise ModelError(f"{folder}: {shown}; expected 1 to 16 output pixels per input pixel in rows and columns alike")
    if crops or crop != int(crop) or crop < 0:
        raise ModelError(f"{folder}: {shown}; expected {int(factor)} times as many, or the same number fewer on each side")
    return Geometry(int(factor), int(crop))


def runs(trial: Trial, key: str, side: int) -> bool:
    """Whether the model runs on a square image of `side` and gives pixels."""
    try:
        return trial.run(key, trial.image(side, side)).size > 0
    except ModelError:
        return False


def receptive_radius(trial: Trial, key: str, geometry: Geometry) -> int:
    """Radius of the receptive field in input pixels: how far from a changed pixel any output changes, in rows and columns.

    A pixel that is not a number spoils whatever is computed from it, however small the weight, which finds the whole field; where the
    network lets no such thing through, ordinary changes show what float32 can.

    Raises:
        NonLocalError: an output depends on pixels more than `REACH` away.

    """
    is_float = trial.graph.kind(trial.graph.inputs[trial.entry]).kind == "f"
    structural = max((reach_of(trial, key, geometry, axis, None) for axis in (0, 1)), default=0) if is_float else -1
    felt = -1
    for axis in (0, 1):
        for seed, change in ((1, 2.0), (2, -0.9)):
            felt = max(felt, reach_of(trial, key, geometry, axis, change, seed))
    if felt > REACH:
        raise NonLocalError(
            f"{trial.graph.folder}: output {key} depends on pixels more than {REACH} away (global pooling, normalisation or attention over the image): "
            "what it gives depends on the block, so blocks would not fit together; SuperResolution needs a purely local network"
        )
    if felt < 0 and structural < 0:
        raise ModelError(f"{trial.graph.folder}: output {key} does not depend on input {trial.entry}; choose another with --output")
    return max(felt, structural) if structural <= REACH else felt


def reach_of(trial: Trial, key: str, geometry: Geometry, axis: int, change: float | None, seed: int = 0) -> int:
    """Largest distance along an axis (input pixels) from a changed line of pixels to an output that changes; -1: none changes.

    change: relative to the pixel's value; None: not a number. More than `REACH` if the change is felt at both ends of a strip that long.
    """
    inside = -(-geometry.crop // geometry.factor)
    reach = 16
    while reach <= REACH:
        length, middle = 2 * (reach + inside) + 1, reach + inside
        thickness = 2 * inside + 16
        before = trial.image(length, thickness, seed) if axis == 0 else trial.image(thickness, length, seed)
        line: list[Any] = [slice(None), slice(None)]
        line[axis] = middle
        after = before.copy()
        after[tuple(line)] = np.nan if change is None else after[tuple(line)] * (1 + change)
        given = np.moveaxis(trial.run(key, after), axis, 0)
        if change is None:
            spoiled = ~np.isfinite(given)
        else:
            plain = np.moveaxis(trial.run(key, before), axis, 0)
            spoiled = ~(np.abs(given - plain) <= 1e-6 * np.abs(plain).max())
        changed = np.flatnonzero(spoiled.reshape(len(given), -1).any(axis=1))
        if changed.size == 0:
            return -1
        if changed[0] > 0 and changed[-1] < len(given) - 1:
            first, last = ((int(k) + geometry.crop) // geometry.factor for k in (changed[0], changed[-1]))
            return max(middle - first, last - middle, 0)
        reach *= 2
    return reach


def block_difference(trial: Trial, key: str, geometry: Geometry, margin: int) -> tuple[float, float]:
    """(largest difference, largest output) of windows of an image, run alone, from the same pixels of the whole, `margin` left out."""
    factor, crop, side = geometry.factor, geometry.crop, 2 * margin + 24
    image = trial.image(side, side + 3, seed=3)
    whole = trial.run(key, image)
    largest, difference = float(np.abs(whole).max(initial=0)), 0.0
    height, width = side - 11, side - 8
    inner = slice(factor * margin - crop, None)
    for row, column in ((0, 0), (1, 0), (0, 1), (3, 5), (7, 2), (8, 8)):
        alone = trial.run(key, image[row : row + height, column : column + width])[inner, inner]
        alone = alone[: factor * (height - 2 * margin), : factor * (width - 2 * margin)]
        there = whole[inner, inner][factor * row :, factor * column :][: alone.shape[0], : alone.shape[1]]
        difference = max(difference, float(np.abs(alone - there).max(initial=0)))
    return difference, largest


def product_type(kind: np.dtype, scale: float) -> str:
    """Pixel type of the product for the model's output type."""
    if kind.kind in "iu":
        return {"int8": "int16", "int64": "int32", "uint64": "uint32"}.get(kind.name, kind.name)
    if kind.kind == "b":
        return "uint8"
    return "int16" if scale < 0.01 else "float32"


def write(source: Path, target: Path, sidecar: Sidecar, in_place: bool, overwrite: bool) -> None:
    """Copy the SavedModel (and what the weights' authors wrote beside it) and write the sidecar; or only the latter."""
    if in_place:
        write_sidecar(source, sidecar, "give --out for a copy elsewhere")
        return
    with new_model(target, overwrite) as temporary:
        shutil.copy(source / GRAPH, temporary)
        for folder in ("variables", "assets"):
            if (source / folder).is_dir():
                shutil.copytree(source / folder, temporary / folder)
        for text in source.glob("*"):
            if text.is_file() and re.match(r"(README|LICEN[CS]E|COPYING|NOTICE)", text.name, re.IGNORECASE):
                shutil.copy(text, temporary)
        write_sidecar(temporary, sidecar)
