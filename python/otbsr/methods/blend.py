"""Between F and P by one number: a model folder whose result is the weighted mean of two others'.

The two SavedModels are taken as they are served, whoever made them; their weights become constants of one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otbsr.errors import ModelError, UsageError, one_line
from otbsr.files import digest
from otbsr.methods.model_folder import ModelFolder, ModelOutput, Sidecar, graph_files, require_new, save_model, trained_areas
from otbsr.progress import Report, silent


def blend(
    first: str | Path,
    second: str | Path,
    share: float,
    out: str | Path,
    name: str = "",
    overwrite: bool = False,
    report: Report = silent,
    trust_model: bool = False,
) -> ModelFolder:
    """Write the model folder `out` whose result, in DN, is (1 - share) times that of `first` (F) plus share times that of `second` (P).

    share: 0 (F) to 1 (P). Margin: the larger of the two. Pixel type and no-data value: F's. The sidecar names both with their hashes and metrics.
    Raises `ModelError` unless both have the same factor, bands and units, `UsageError`, `OutputError`.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"--share {share:g}: expected 0 (the first model alone) to 1 (the second alone)")
    require_new(Path(out), overwrite)
    sources = [ModelFolder.open(path, trust_model) for path in (first, second)]
    require_alike(*sources)
    f, p = (source.sidecar for source in sources)
    report("blend", 0.0)
    sidecar = Sidecar(
        name=name or Path(out).name,
        method=p.method if share == 1 else f.method if share == 0 else max(f.method, p.method, key=("baseline", "fidelity", "perceptual").index),
        factor=f.factor,
        margin=max(f.margin, p.margin),
        input=f.input.model_copy(update={"signature": "serving_default", "name": "lr"}),
        output=ModelOutput(**f.output.model_dump() | {"name": "sr"}),
        training={
            "data": f"blend of {f.name} (share {1 - share:g}) and {p.name} (share {share:g})",
            "share": share,
            **trained_areas([side.training for side in (f, p) if side.method != "baseline"]),
            "sources": [
                {
                    "name": source.sidecar.name,
                    "method": source.sidecar.method,
                    "sha256": {key: digest(source.path / key) for key in graph_files(source.path)},
                    "data": source.sidecar.training.get("data", ""),
                    "metrics": source.sidecar.metrics,
                    "licence": source.sidecar.licence,
                }
                for source in sources
            ],
        },
        licence=" AND ".join(dict.fromkeys(side.licence for side in (f, p) if side.licence)),
    )
    mixed = Blend([frozen(source) for source in sources], share)
    report("blend", 0.5)
    coarse = [source.phases for source in sources]
    if all(coarse):
        mixed = Blend(mixed.runs, share, Blend([frozen(source, phases) for source, phases in zip(sources, coarse, strict=True)], share))
    folder = save_model(mixed, out, sidecar, card(sidecar), overwrite)
    report("blend", 1.0)
    return folder


@dataclass(frozen=True)
class Blend:
    """The weighted mean of two functions of float32 [n, h, w, bands], over the smaller result's pixels. phases: see `before_depth_to_space`."""

    runs: list[Callable[[Any], Any]]
    share: float
    phases: Blend | None = None

    def __call__(self, lr: Any) -> Any:
        """float32 [n, h, w, bands] DN to float32 [n, rows, columns, bands]."""
        results = [run(lr) for run in self.runs]
        rows, columns = smallest(results)
        f, p = (centre(result, rows, columns) for result in results)
        return (1.0 - self.share) * f + self.share * p


def require_alike(first: ModelFolder, second: ModelFolder) -> None:
    """Raise `ModelError` naming the first thing in which the models differ so that their results cannot be added."""
    for what in ("factor", "input.bands", "output.bands", "input.spacing", "input.scale", "input.offset", "output.scale", "output.offset"):
        values = []
        for model in (first, second):
            value: Any = model.sidecar
            for part in what.split("."):
                value = getattr(value, part)
            values.append(" ".join(value) if isinstance(value, tuple) else f"{value:g}")
        if values[0] != values[1]:
            raise ModelError(f"{second.path}: {what} is {values[1]}, {first.path} has {values[0]}; only models of one factor, bands and units can be blended")


def frozen(model: ModelFolder, signature: Any = None) -> Callable[[Any], Any]:
    """The model as a function from float32 DN to float32 DN without variables: what it takes and gives itself is cast (integers rounded).

    signature: another one than the sidecar's.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    side = model.sidecar
    try:
        signature = signature or model.signature
        names = sorted(signature.structured_outputs)
        constant = convert_variables_to_constants_v2(signature)
    except ModelError:
        raise
    except Exception as error:  # TensorFlow raises what it likes
        raise ModelError(f"{model.path}: its weights cannot be made constants ({one_line(error)}); export the model again") from error
    if len(constant.inputs) != 1 or side.output.name not in names:
        raise ModelError(f"{model.path}: has {len(constant.inputs)} inputs and the outputs {', '.join(names)}; expected one input and {side.output.name}")
    kind = constant.inputs[0].dtype

    def run(lr: Any) -> Any:
        if kind.is_integer:
            lr = tf.clip_by_value(tf.round(lr), float(kind.min), float(kind.max))
        given = tf.cast(tf.nest.flatten(constant(tf.cast(lr, kind)))[names.index(side.output.name)], tf.float32)
        return given[..., None] if given.shape.rank == 3 else given  # [n, h, w]: one band

    return run


def smallest(results: list[Any]) -> tuple[Any, Any]:
    """Rows and columns of the smallest of several results: a model may leave out a part of its margin itself."""
    import tensorflow as tf

    shapes = [tf.shape(result) for result in results]
    rows, columns = (tf.reduce_min(tf.stack([shape[axis] for shape in shapes])) for axis in (1, 2))
    return rows, columns


def centre(image: Any, rows: Any, columns: Any) -> Any:
    """The middle `rows` x `columns` pixels of [n, h, w, bands]."""
    import tensorflow as tf

    shape = tf.shape(image)
    top, left = (shape[1] - rows) // 2, (shape[2] - columns) // 2
    return image[:, top : top + rows, left : left + columns]


def card(sidecar: Sidecar) -> str:
    """The model card."""
    rows = "\n".join(
        f"| {source['name']} | {source['method']} | {source['metrics'].get('gain_over_bicubic_db', 'not measured')} | {source['data'] or 'not known'} |"
        for source in sidecar.training["sources"]
    )
    return f"""# {sidecar.name}

{sidecar.training["data"][:1].upper()}{sidecar.training["data"][1:]}: every pixel is the weighted mean of the two models' results, x{sidecar.factor},
bands {" ".join(sidecar.output.bands)}. Margin {sidecar.margin} input pixels. Not trained and not measured itself.

| source | method | dB over bicubic, on its own validation data | trained on |
|---|---|---|---|
{rows}
"""
