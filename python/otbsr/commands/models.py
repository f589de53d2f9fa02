"""Models: `otbsr train`, `import-model`, `blend` and `baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otbsr import shell
from otbsr.commands.shared import Json, Output, Overwrite, Quiet, Trust, finish, tell, words
from otbsr.progress import bars

app = shell.Commands()

TRAIN_EXAMPLES = """Example: otbsr train pairs/a pairs/b -o models/f --size light --minutes 40

Another: otbsr train pairs/a -o models/p --method perceptual --steps 20000 --tensorboard logs/p
"""


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    folders: Annotated[list[Path], typer.Argument(metavar="PAIRS...", help="Folders that `otbsr pairs` wrote.")],
    out: Output,
    method: Annotated[str | None, typer.Option(help="fidelity: as near to the target as can be; perceptual: as sharp [fidelity].")] = None,
    size: Annotated[str | None, typer.Option(help="Network: tiny (60 thousand weights), light (200 thousand) or base (1 million) [light].")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget; training ends at whichever of --minutes and --steps comes first.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights [10000].")] = None,
    bands: Annotated[str, typer.Option("--bands", help="Names of the bands that go in, with commas [those of the pairs].")] = "",
    outputs: Annotated[str, typer.Option("--outputs", help="Names of the bands that come out, some of those that go in [all].")] = "",
    factor: Annotated[int | None, typer.Option(help="Input over output spacing [that of the pairs].")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs in a step: lower it when memory runs out [16].")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate: lower it when the loss is no longer a number [0.001].")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many validations without a better score, 0: never (fidelity only) [0].")] = None,
    mixed_precision: Annotated[bool | None, typer.Option(help="Compute with 16 bits: faster on GPUs only [no].")] = None,
    settings_file: Annotated[Path | None, typer.Option("--settings", help="YAML or JSON file with more settings (network, loss, ...); flags win.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint to write, and to go on from where it exists [OUT.checkpoint.npz].")] = None,
    start_from: Annotated[Path | None, typer.Option(help="Checkpoint, or model folder that `otbsr train` wrote, whose weights are the starting point.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder to write the curves to; look at them with `tensorboard --logdir FOLDER`.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Limit of threads; default all. 1: each run gives the same bits (on processors).")
    ] = None,
    devices: Annotated[str, typer.Option(help="GPUs to divide each batch among: all, or names such as GPU:0,GPU:1 [one].")] = "",
    name: Annotated[str, typer.Option(help="Name of the model [name of OUT].")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random number.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a network on pairs of patches and write a model folder; the same command goes on after an interruption.

    Several hosts train together when each runs the same command with TensorFlow's TF_CONFIG set and the same folders in reach.
    """
    from otbsr.methods.devices import limit_threads, open_strategy
    from otbsr.methods.model_folder import require_new
    from otbsr.methods.patches import read_manifests, read_pairs
    from otbsr.methods.settings import read_settings
    from otbsr.methods.training import train

    require_new(out, overwrite)
    limit_threads(threads)
    chosen = read_settings(
        settings_file,
        method=method,
        size=size,
        factor=factor,
        bands=words(bands),
        outputs=words(outputs),
        pairs=read_manifests(folders)[0][1],
        minutes=minutes,
        steps=steps,
        batch=batch,
        rate=rate,
        patience=patience,
        mixed_precision=mixed_precision,
        seed=seed,
    )
    strategy = open_strategy(devices)
    with bars(quiet, as_json) as report:
        training, validation, common_ = read_pairs(folders)
        model = train(
            training,
            validation,
            chosen,
            out,
            name,
            checkpoint=checkpoint,
            start_from=start_from,
            tensorboard=tensorboard,
            strategy=strategy,
            overwrite=overwrite,
            report=report,
            **common_,
        )
    if model.sidecar.method == "fidelity" and model.sidecar.metrics["gain_over_bicubic_db"] < 0:
        tell("the network is worse than bicubic: it needs more steps (--steps, --minutes) or more pairs before it is of use", as_json)
    finish({"out": model.path, **{key: model.sidecar.metrics[key] for key in ("psnr", "psnr_bicubic", "gain_over_bicubic_db")}}, as_json)


@app.command("import-model", epilog="Example: otbsr import-model sr4rs_sentinel2_bands4328_france2020_savedmodel -o models/sr4rs")
def import_model_command(
    source: Annotated[Path, typer.Argument(metavar="SAVEDMODEL", help="Folder with saved_model.pb: SR4RS's, or any fully convolutional network.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Model folder to make: a copy with model.json.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write model.json into SAVEDMODEL instead of copying it.")] = False,
    name: Annotated[str, typer.Option(help="Name of the model [name of the folder].")] = "",
    method: Annotated[str | None, typer.Option(help="What it was trained for: fidelity, perceptual or baseline [SR4RS: perceptual].")] = None,
    bands: Annotated[str, typer.Option("--bands", help="Names of the input bands in the model's order [SR4RS: B4,B3,B2,B8].")] = "",
    output_bands: Annotated[str, typer.Option("--output-bands", help="Names of the output bands [those of the input].")] = "",
    factor: Annotated[int | None, typer.Option(min=1, help="Input over output spacing [found by running the model].")] = None,
    margin: Annotated[int | None, typer.Option(min=0, help="Input pixels discarded around a block [radius of the receptive field, found].")] = None,
    spacing: Annotated[float | None, typer.Option(help="Metres between input pixels [10].")] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="Reflectance of one unit of the model's input [0.0001].")] = None,
    output_scale: Annotated[float | None, typer.Option("--output-scale", help="Reflectance of one unit of its output [that of the input].")] = None,
    dtype: Annotated[str | None, typer.Option(help="Pixel type of the product [from the output's type and scale].")] = None,
    nodata: Annotated[float | None, typer.Option(help="No-data value of the product [-10000, or 0 for unsigned types].")] = None,
    signature: Annotated[str, typer.Option(help="Signature, where there are several [serving_default].")] = "",
    input_name: Annotated[str, typer.Option("--input", help="Input of the signature [the only one].")] = "",
    output_name: Annotated[str, typer.Option("--output", help="Output of the signature [the one that leaves out the least border].")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a model folder from a SavedModel: finds factor and margin by running it, and refuses networks that blocks would show in.

    A SavedModel is a program, and this runs it: import only what you know the origin of.
    """
    from otbsr.methods.import_model import import_model

    with bars(quiet, as_json) as report:
        done = import_model(
            source,
            out,
            in_place=in_place,
            name=name,
            method=method,  # type: ignore[arg-type]
            bands=words(bands),
            output_bands=words(output_bands),
            factor=factor,
            margin=margin,
            spacing=spacing,
            scale=scale,
            output_scale=output_scale,
            dtype=dtype,  # type: ignore[arg-type]
            nodata=nodata,
            signature=signature,
            input_name=input_name,
            output_name=output_name,
            licence=licence,
            overwrite=overwrite,
            report=report,
        )
    side = done.folder.sidecar
    finish(
        {
            "out": done.folder.path,
            "layout": done.layout or "unknown",
            "output": side.output.name,
            "factor": side.factor,
            "margin": side.margin,
            "receptive_field_radius": done.radius,
            "block_difference": f"{done.difference:.3g}",
            "response": f"{done.response:.4f} for a grey image of reflectance {done.grey:g}",
        },
        as_json,
    )


@app.command("blend", epilog="Example: otbsr blend models/f models/p --share 0.3 -o models/f70p30")
def blend_command(
    first: Annotated[Path, typer.Argument(metavar="F_MODEL", help="Model folder, of a fidelity method as a rule.")],
    second: Annotated[Path, typer.Argument(metavar="P_MODEL", help="Model folder of the same factor, bands and units: a perceptual method's.")],
    out: Output,
    share: Annotated[float, typer.Option(help="Share of P_MODEL in the result: 0 is F_MODEL's, 1 is P_MODEL's.")],
    name: Annotated[str, typer.Option(help="Name of the model [name of OUT].")] = "",
    trust_model: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make one model folder of two: its result is the weighted mean of theirs, between faithful and sharp."""
    from otbsr.methods.blend import blend

    with bars(quiet, as_json) as report:
        side = blend(first, second, share, out, name, overwrite, report, trust_model).sidecar
    finish({"out": out, "factor": side.factor, "margin": side.margin, "method": side.method, "share": share}, as_json)


@app.command("baseline", epilog="Example: otbsr baseline unsharp -o models/unsharp-x2 --factor 2")
def baseline_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="nearest, bicubic, lanczos, or unsharp (the sensor's blur undone as far as noise allows).")],
    out: Output,
    factor: Annotated[int, typer.Option(help="Input spacing over output spacing, 2 to 8.")] = 4,
    bands: Annotated[str, typer.Option("--bands", help="Names of the bands, in and out.")] = "B4,B3,B2,B8",
    spacing: Annotated[float, typer.Option(help="Metres between input pixels.")] = 10.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a model folder of an interpolation: what a network has to beat, behind the same interface."""
    from otbsr.methods.baselines import write_baseline

    model = write_baseline(kind, out, factor, tuple(words(bands)), spacing, overwrite)
    finish({"out": model.path, "factor": model.sidecar.factor, "margin": model.sidecar.margin}, as_json)
