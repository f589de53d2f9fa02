"""The model folder: a SavedModel and its sidecar `model.json`, everything that serving needs to know.

The SavedModel's signature maps `input.name` [n, h, w, bands] in DN of the input to `output.name` [n, factor h, factor w, bands] in DN of
the output, or to the centre of that. What is spoiled by the edge of the given image lies within `margin` input pixels of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from otbsr.errors import ModelError, nearest
from otbsr.files import SPACE, digest, new_folder, require_replaceable, unwritable, write_json

SIDECAR = "model.json"
GRAPH = "saved_model.pb"
DType = Literal["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
MAXIMUM = {name: (np.iinfo(name).min, np.iinfo(name).max) for name in ("uint8", "int16", "uint16", "int32", "uint32")} | {
    name: (float(np.finfo(name).min), float(np.finfo(name).max)) for name in ("float32", "float64")
}
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Text for messages of one line: no control characters."""


class Part(BaseModel):
    """Base of the sidecar's parts: unknown keys are errors, since a misspelt key would silently change pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelInput(Part):
    """What goes in: reflectance = DN * scale + offset."""

    signature: Name = "serving_default"
    name: Name = "lr"
    bands: tuple[Name, ...] = Field(min_length=1)
    spacing: float = Field(gt=0, description="metres between input pixels the model was made for")
    scale: float = Field(1e-4, gt=0)
    offset: float = 0.0


class ModelOutput(Part):
    """What comes out: reflectance = DN * scale + offset; rounded and clamped to `dtype` in serving."""

    name: Name = "sr"
    bands: tuple[Name, ...] = Field(min_length=1)
    scale: float = Field(1e-4, gt=0)
    offset: float = 0.0
    dtype: DType = "int16"
    nodata: float | None = -10000


class Sidecar(Part):
    """`model.json`, format 1."""

    format: Literal[1] = 1
    name: Name
    method: Literal["fidelity", "perceptual", "baseline"]
    factor: int = Field(ge=1, le=16)
    margin: int = Field(ge=0, le=4096, description="input pixels discarded on each side of a block")
    input: ModelInput
    output: ModelOutput
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str = ""
    sha256: dict[str, str] = {}

    @field_validator("sha256")
    @classmethod
    def files_are_the_models(cls, hashes: dict[str, str]) -> dict[str, str]:
        """A sidecar that others made must not make us read files outside its folder."""
        for name in hashes:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"file {name!r} lies outside the model folder")
        return hashes

    @model_validator(mode="after")
    def agrees_with_itself(self) -> Sidecar:
        """Band names differ, and the no-data value can be written in the output type."""
        for part, bands in (("input", self.input.bands), ("output", self.output.bands)):
            if len(set(bands)) != len(bands):
                raise ValueError(f"{part}.bands {list(bands)} must be names that differ")
        low, high = MAXIMUM[self.output.dtype]
        if self.output.nodata is not None and not low <= self.output.nodata <= high:
            raise ValueError(f"output.nodata {self.output.nodata:g} does not fit output.dtype {self.output.dtype}")
        return self


def read_sidecar(path: Path) -> Sidecar:
    """Read and validate a `model.json`; raises `ModelError` naming the key, its value and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = (
            f"`otbsr import-model {path.parent} --out MODELFOLDER` makes a model folder of a SavedModel"
            if isinstance(error, FileNotFoundError)
            else f"a model folder needs {GRAPH} and {SIDECAR}"
        )
        raise ModelError(f"{path}: sidecar cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: byte {error.start} is not UTF-8; export the model again") from error
    with contextlib.suppress(ValueError, RecursionError):  # said better below
        json.loads(text, object_pairs_hook=partial(refuse_repeated_keys, path))
    try:
        return Sidecar.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "content"
        value = "" if first["type"] in ("missing", "json_invalid") else f" {json.dumps(first['input'], default=str)[:80]}:"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ModelError(f"{path}: {key}:{value} {first['msg'][:1].lower()}{first['msg'][1:]}{more}; correct the sidecar or export the model again") from error


def refuse_repeated_keys(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `ModelError` when a key is there twice: which value holds would depend on the reader."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ModelError(f"{path}: has the key {repeated!r} twice; delete one")
    return content


def graph_files(folder: Path) -> list[str]:
    """What TensorFlow may read of the folder, relative to it and in order: what `sha256` covers.

    Not only the usual files: where saved_model.cpb lies beside saved_model.pb, TensorFlow runs that one. A link to a folder is a name like a
    file's, so that no hash can stand for what is behind it.
    """
    found = {GRAPH, *(path.name for path in folder.glob("saved_model*"))}
    for below in ("variables", "assets", "assets.extra"):
        for parent, folders, files in os.walk(folder / below):
            links = [name for name in folders if (Path(parent) / name).is_symlink()]
            found.update((Path(parent) / name).relative_to(folder).as_posix() for name in (*files, *links))
    return sorted(found)


def neighbour(folder: Path) -> str:
    """The hint at a model folder of nearly the same name beside a missing one, or in models/; '' when there is none."""
    there = {path.parent.name: path.parent for place in (folder.parent, Path("models")) for path in sorted(place.glob(f"*/{SIDECAR}"))}
    hint = nearest(folder.name, there)
    return next((f" (did you mean '{path}'?)" for name, path in there.items() if f"'{name}'" in hint), "")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder on disk whose sidecar is valid and whose files are those that were hashed."""

    path: Path
    sidecar: Sidecar

    @classmethod
    def open(cls, path: str | Path, trust: bool = False) -> ModelFolder:
        """Check folder, sidecar, and that every file of the SavedModel has the hash that the sidecar lists; raises `ModelError`. Loads no TensorFlow.

        trust: files that the sidecar does not list are accepted. A SavedModel is a program: it can read and write files.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such model folder{neighbour(folder)}; expected a directory with {GRAPH} and {SIDECAR}")
        if not (folder / GRAPH).is_file():
            raise ModelError(f"{folder}: no {GRAPH} in it; expected a model folder (SavedModel and {SIDECAR})")
        sidecar = read_sidecar(folder / SIDECAR)
        for name, expected in sidecar.sha256.items():
            file = folder / name
            found = digest(file) if file.is_file() else "no file"
            if found != expected:
                raise ModelError(f"{file}: sha256 is {found[:12]}, {SIDECAR} says {expected[:12]}; the copy is damaged, fetch the model again")
        unlisted = sorted(set(graph_files(folder)) - set(sidecar.sha256))
        if unlisted and not trust:
            raise ModelError(
                f"{folder}: {SIDECAR} has no sha256 of {', '.join(unlisted[:5])}; a SavedModel is a program: if you know where it comes from, give "
                "--trust-model, or make its sidecar again with `otbsr import-model`"
            )
        return cls(folder, sidecar)

    @cached_property
    def signature(self) -> Callable[..., dict[str, Any]]:
        """The SavedModel's signature, loaded in Python."""
        import tensorflow as tf

        self.__dict__["loaded"] = loaded = tf.saved_model.load(str(self.path))  # keeps the variables alive
        if self.sidecar.input.signature not in loaded.signatures:
            raise ModelError(f"{self.path}: no signature {self.sidecar.input.signature}; it has {', '.join(loaded.signatures) or 'none'}: correct {SIDECAR}")
        return loaded.signatures[self.sidecar.input.signature]  # type: ignore[no-any-return]

    @cached_property
    def phases(self) -> Callable[..., dict[str, Any]] | None:
        """The signature without the last depth-to-space, and maybe without a border (see `before_depth_to_space`); None if there is none."""
        _ = self.signature  # loads the model
        found: Any = self.__dict__["loaded"].signatures.get(f"{self.sidecar.input.signature}_phases")
        given = found.structured_outputs.get(self.sidecar.output.name) if found else None
        return found if given is not None and given.shape.rank == 4 and given.shape[3] == self.sidecar.factor**2 * len(self.sidecar.output.bands) else None

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Super-resolve an image held in memory, as serving does: [h, w, bands] DN -> [factor h, factor w, bands] DN, float32.

        The image is mirrored about its edges (edge pixel repeated) by `margin`; nothing is rounded but the input of a network that takes
        integers. No-data is not handled here.
        """
        side = self.sidecar
        if image.ndim != 3 or image.shape[2] != len(side.input.bands):
            raise ModelError(
                f"{side.name}: image of shape {image.shape}, expected [rows, columns, {len(side.input.bands)} bands: {' '.join(side.input.bands)}]"
            )
        lr = np.pad(image, ((side.margin, side.margin), (side.margin, side.margin), (0, 0)), mode="symmetric")
        import tensorflow as tf

        kind = self.signature.structured_input_signature[1][side.input.name].dtype.as_numpy_dtype  # type: ignore[attr-defined]
        sr = self.signature(**{side.input.name: tf.constant(as_type(lr, kind)[None])})[side.output.name].numpy()[0]
        height, width = side.factor * image.shape[0], side.factor * image.shape[1]
        above, left = sr.shape[0] - height, sr.shape[1] - width
        if min(above, left) < 0 or above % 2 or left % 2:
            raise ModelError(
                f"{side.name}: gives {sr.shape[1]} x {sr.shape[0]} pixels for {lr.shape[1]} x {lr.shape[0]}, which has no centre of {width} x {height}; "
                f"correct factor or margin in {SIDECAR}"
            )
        inner: NDArray[np.float32] = sr[above // 2 : above // 2 + height, left // 2 : left // 2 + width]
        return inner.astype(np.float32, copy=False)


def as_type(values: NDArray[Any], kind: Any) -> NDArray[Any]:
    """`values` in the pixel type `kind`, rounded and clamped as serving does where it holds whole numbers only."""
    kind = np.dtype(kind)
    if kind.kind not in "iu":
        return values.astype(kind)
    limits = np.iinfo(kind)
    return np.rint(values).clip(limits.min, limits.max).astype(kind)


def require_new(folder: Path, overwrite: bool) -> None:
    """Raise `OutputError` when the model folder is there already, or `overwrite` would replace something else: asked before any work."""
    require_replaceable(folder, overwrite, "model folder", (SIDECAR, GRAPH))


@contextlib.contextmanager
def new_model(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Where to make the model folder `folder`, which is there whole or not at all; raises `OutputError`, also when it exists without `overwrite`."""
    require_new(folder, overwrite)
    with new_folder(folder, "check the path and the free space") as temporary:
        yield temporary


def write_sidecar(folder: Path, sidecar: Sidecar, remedy: str = SPACE) -> None:
    """Write `model.json` with the hashes of the folder's SavedModel; raises `OutputError`."""
    hashed = sidecar.model_copy(update={"sha256": {name: digest(folder / name) for name in graph_files(folder)}})
    write_json(folder / SIDECAR, hashed.model_dump(mode="json"), remedy)


def before_depth_to_space(model: Any) -> Any:
    """A Keras model without its last layer where that is `networks.DepthToSpace`, a function's attribute `phases`, else None.

    It is saved as the signature `<name>_phases`: the applications put the fine pixels in place in the copy that they make anyway, which
    saves TensorFlow a pass over the largest tensor. What zero padding reaches is left out where that can be done
    (`networks.phases_without_border`).
    """
    import keras

    from otbsr.methods.networks import phases_without_border

    if not isinstance(model, keras.Model):
        return getattr(model, "phases", None)
    if type(model.layers[-1]).__name__ != "DepthToSpace":
        return None
    return phases_without_border(model) or keras.Model(model.inputs, model.layers[-1].input)


def trained_areas(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `model.json` says of where a network was trained, from the records of its runs, or of the models that it is made of.

    seeds: of simulated landscapes. footprints: real ground, each {"crs": name, "bounds": [xmin, ymin, xmax, ymax] in that CRS}. Whoever judges a
    model takes none of these. areas_complete: whether that is all; false: it may have been trained elsewhere too, where nobody can tell.
    """
    given = [footprint for run in runs for footprint in run.get("footprints") or []]
    return {
        "seeds": sorted({int(seed) for run in runs for seed in run.get("seeds") or []}),
        "footprints": [footprint for index, footprint in enumerate(given) if footprint not in given[:index]],
        "areas_complete": all(run.get("areas_complete", run.get("footprints") is not None) for run in runs),
    }


def save_model(model: Any, folder: str | Path, sidecar: Sidecar, card: str = "", overwrite: bool = False) -> ModelFolder:
    """Export a model and write its folder: `saved_model.pb`, `variables/`, `model.json` with hashes, `README.md` (the card).

    model: a Keras model, or a function without variables, that maps float32 [n, h, w, bands] DN to [n, factor h, factor w, bands]
    DN. The graph loads in Python and through TensorFlow's C API; see `before_depth_to_space` for a second signature that it may have.
    Raises `OutputError` when the folder exists or cannot be written.
    """
    import keras
    import tensorflow as tf

    folder = Path(folder)
    with new_model(folder, overwrite) as temporary:
        module = tf.Module()
        # The plain tf.Variables, each once: the C API's loader restores no variable that only Keras knows of, and Keras' own
        # ExportArchive writes every weight twice.
        module.weights = [variable.value for variable in model.variables] if isinstance(model, keras.Model) else []
        spec = tf.TensorSpec((None, None, None, len(sidecar.input.bands)), tf.float32, name=sidecar.input.name)
        serve = tf.function(lambda lr: {sidecar.output.name: model(lr)}, input_signature=[spec])
        signatures = {sidecar.input.signature: serve.get_concrete_function()}
        if coarse := before_depth_to_space(model):
            phases = tf.function(lambda lr: {sidecar.output.name: coarse(lr)}, input_signature=[spec])
            signatures[f"{sidecar.input.signature}_phases"] = phases.get_concrete_function()
        try:
            tf.saved_model.save(module, str(temporary), signatures=signatures)
        except tf.errors.OpError as error:  # a full disk, in TensorFlow's words
            raise unwritable(folder, error) from error
        for extra in ("fingerprint.pb", "assets"):  # neither is read by anybody
            shutil.rmtree(temporary / extra) if (temporary / extra).is_dir() else (temporary / extra).unlink(missing_ok=True)
        write_sidecar(temporary, sidecar)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    return ModelFolder.open(folder)
