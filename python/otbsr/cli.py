"""The `otbsr` commands: thin shells over the library. Same options, same names, in every command."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import __version__, shell
from otbsr.errors import InputError, OtbsrError, UsageError, flaw
from otbsr.progress import bars

app = typer.Typer(
    name="otbsr",
    cls=shell.Road,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does super-resolving Sentinel-2 help land-cover mapping, here, with my data?",
    epilog="Begin with `otbsr doctor`. `otbsr COMMAND --help` shows options and an example; `otbsr --install-completion` teaches your shell.",
)

# An option is spelled once: same flag, same help, in every command.
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace products that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print progress and result as JSON lines.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random number.")]
ModelFolder = Annotated[Path, typer.Option("--model", help="Model folder: saved_model.pb and model.json.", autocompletion=shell.folders_with("model.json"))]
Trust = Annotated[bool, typer.Option("--trust-model", help="Run a model whose model.json does not list the hashes of all its files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run nothing; print the otbcli lines, ready to be copied into a shell.")]
Output = Annotated[Path, typer.Option("--out", "-o", help="Where the product is written.")]


def finish(result: dict[str, Any], as_json: bool) -> None:
    """Print a command's result: `key: value` lines, or one JSON object."""
    if as_json:
        print(json.dumps(result, default=str))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


def words(text: str) -> list[str]:
    """The words of an option's list: "B4, B3" -> ["B4", "B3"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


def main(run: Callable[[], Any] = app) -> None:
    """Entry point: errors of `otbsr.errors` become one line on stderr and their exit status."""
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # images in sensor geometry are none the worse for it
    try:
        run()
    except OtbsrError as error:
        print(f"otbsr: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        # What no part of the library has foreseen: the system's own words name the file. A program's fault keeps its traceback.
        where = f"{error.filename}: " if error.filename else ""
        print(f"otbsr: error: {where}{error.strerror or error}; check the path, its permissions and the free space", file=sys.stderr)
        raise SystemExit(74) from None
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # typer makes an exit of an interrupt
            raise
        print("otbsr: interrupted; finished products are kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"otbsr {__version__}")
        raise typer.Exit


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Options before the command."""


@app.command(epilog="Example: otbsr simulate demo/world --seed 7 --extent 2520 --products safe,dimap")
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; one that holds this very world is kept.")],
    seed: Seed = 1,
    extent: Annotated[int, typer.Option(help="Side of the square, metres; a multiple of 60, at least 480.")] = 2520,
    urban: Annotated[float, typer.Option(help="Share of the area that is built up, 0..1.")] = 0.4,
    gradient: Annotated[float, typer.Option(help="0: towns scattered; 1: a slope from open country to town.")] = 0.6,
    day: Annotated[int, typer.Option(help="Day of the year of the Sentinel-2 image.")] = 165,
    date_gap: Annotated[int, typer.Option(help="Days from Sentinel-2 to Spot.")] = 0,
    shift: Annotated[tuple[float, float], typer.Option(metavar="EAST NORTH", help="Residual misregistration of Spot, metres.")] = (0.0, 0.0),
    gain: Annotated[float, typer.Option(help="Factor on Spot's reflectance.")] = 1.0,
    bias: Annotated[float, typer.Option(help="Added to Spot's reflectance.")] = 0.0,
    noise: Annotated[float, typer.Option(help="Factor on the sensors' noise.")] = 1.0,
    cloud_cover: Annotated[float, typer.Option(help="Share of the Sentinel-2 image under cloud, 0..0.9.")] = 0.0,
    changed: Annotated[float, typer.Option(help="Share of the parcels that change between Sentinel-2 and Spot, 0..1.")] = 0.0,
    sun_elevation: Annotated[float | None, typer.Option(help="Degrees above the horizon; default from the date.")] = None,
    sun_azimuth: Annotated[float | None, typer.Option(help="Degrees from north; default from the date.")] = None,
    products: Annotated[str, typer.Option(help="Products written besides the GeoTIFFs: safe, theia, dimap, with commas.")] = "",
    bands: Annotated[str, typer.Option(help="Bands of the pair to train on: ten (10 and 20 m), all (13), or names with commas.")] = "B4,B3,B2,B8",
    factor: Annotated[int, typer.Option(help="10 m over the spacing of the pair's reference: 2, 3, 4, 5, 6 or 8.")] = 4,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Simulate a landscape, its exact land cover at 2.5 m, and what Sentinel-2 and Spot-6/7 see of it."""
    from otbsr.world.simulate import WorldSettings
    from otbsr.world.simulate import simulate as make_world

    settings = WorldSettings.parse(
        seed=seed,
        extent=extent,
        urban=urban,
        gradient=gradient,
        day=day,
        date_gap=date_gap,
        shift=shift,
        gain=gain,
        bias=bias,
        noise=noise,
        cloud_cover=cloud_cover,
        changed=changed,
        sun_elevation=sun_elevation,
        sun_azimuth=sun_azimuth,
        products=tuple(words(products)),
        bands=tuple(words(bands)),
        factor=factor,
    )
    with bars(quiet, as_json) as report:
        world = make_world(out, settings, report, overwrite)
    finish({"out": out, "cached": world["cached"], "files": len(world["files"])}, as_json)


@app.command("aerial", epilog="Example: otbsr aerial naip.tif -o worlds/naip --factor 4")
def aerial_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Red, green, blue and near infrared in one file, or in four.")],
    out: Output,
    factor: Annotated[int, typer.Option(help="10 m over the spacing of the reference: 2, 3, 4, 5, 6 or 8.")] = 4,
    scale: Annotated[str, typer.Option("--scale", help="Reflectance of one count, one for all bands or four with commas.")] = "0.0012,0.0012,0.0012,0.0018",
    zoom: Annotated[float, typer.Option(help="Take the image to be this many times larger on the ground.")] = 1.0,
    offset: Annotated[tuple[float, float], typer.Option(metavar="EAST SOUTH", help="Where the pixels begin, metres from where they would.")] = (0.0, 0.0),
    noise: Annotated[float, typer.Option(help="Factor on the sensor's noise.")] = 1.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a pair of images to train on from an aerial image of 1 m or so, seen by the simulated sensor: real texture."""
    from otbsr.world.aerial import observe_aerial, read_scale

    made = observe_aerial(files, out, factor, scale=read_scale(scale), zoom=zoom, offset=offset, seed=seed, noise=noise, overwrite=overwrite)
    finish({"out": out, **made["pair"]}, as_json)


PAIRS_EXAMPLES = """Example: otbsr pairs S2A_MSIL2A_20230614T105031_N0509_R051_T31TCJ_20230614T165000.SAFE PROD_SPOT6_001 -o pairs/toulouse

Another, of two images that are aligned already: otbsr pairs world/sentinel2_10m.tif world/reference_2m5.tif -o pairs/world
"""


@app.command(epilog=PAIRS_EXAMPLES)
def pairs(
    lr: Annotated[Path, typer.Argument(metavar="INPUT", help="Sentinel-2: product (folder or archive), or image of 10 m.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Spot-6/7 product, or an image; aligned and on a nested grid when INPUT is an image too.")],
    out: Output,
    patch: Annotated[int, typer.Option(help="Side of a patch in input pixels; even.")] = 32,
    step: Annotated[int, typer.Option(help="Distance between patches in input pixels.")] = 16,
    block: Annotated[int, typer.Option(help="Side of the blocks that go whole to training or validation, input pixels.")] = 64,
    buffer: Annotated[int, typer.Option(help="Least distance between training and validation patches, input pixels.")] = 2,
    valid: Annotated[float, typer.Option(help="Share of the blocks kept for validation.")] = 0.15,
    align: Annotated[bool, typer.Option("--align", help="Treat two images as products: co-register, harmonise, reject.")] = False,
    bands: Annotated[str, typer.Option("--bands", help="Bands of the input: ten (10 and 20 m), or names with commas [B4,B3,B2,B8].")] = "",
    factor: Annotated[int | None, typer.Option(min=1, max=8, help="Input over target spacing [4].")] = None,
    method: Annotated[str | None, typer.Option(help="Pansharpening: rcs, lmvm or bayes [rcs].")] = None,
    dem: Annotated[Path | None, typer.Option(help="Folder of elevation tiles, for products in sensor geometry.")] = None,
    geoid: Annotated[Path | None, typer.Option(help="Geoid file, for products in sensor geometry.")] = None,
    days: Annotated[int | None, typer.Option(min=0, help="Largest difference of dates [any].")] = None,
    masked: Annotated[float | None, typer.Option(min=0, max=1, help="Share of a patch that may be under cloud, shadow or snow [0.005].")] = None,
    changed: Annotated[float | None, typer.Option(min=0, max=1, help="Share of a patch that may have changed [0.01].")] = None,
    labels: Annotated[Path | None, typer.Option(help="Land cover, for the share of artificial surfaces [guessed from NDVI].")] = None,
    artificial: Annotated[str, typer.Option(help="Codes of artificial surfaces in LABELS, with commas.")] = "1,2",
    most: Annotated[int | None, typer.Option(min=1, help="Training patches at most, evenly from all shares of artificial surfaces [all].")] = None,
    tfrecords: Annotated[bool, typer.Option("--tfrecords", help="Write the patches as TFRecords too.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the steps' products in OUT.steps, among them the whole aligned images.")] = False,
    data: Annotated[str, typer.Option(help="One sentence on where the images come from, for the model card.")] = "",
    seed: Seed = 0,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make pairs of patches for training, split by ground, from two products or from two aligned images.

    Products are calibrated, orthorectified where they need it, pansharpened, co-registered, resampled once and harmonised; patches with
    clouds, changes or saturation are rejected. OUT/pairs.html shows them. The same command goes on after an interruption.
    """
    from pydantic import ValidationError

    from otbsr.pairs.patches import PatchSettings, extract_pairs

    try:
        where = PatchSettings(patch=patch, step=step, block=block, buffer=buffer, valid=valid, seed=seed)
    except ValidationError as error:
        raise UsageError(flaw(error)) from error
    chosen = None
    if align or lr.is_dir() or target.is_dir() or {lr.suffix.lower(), target.suffix.lower()} & {".zip", ".xml"}:
        from otbsr.pairs.chain import make_pairs, read_settings

        chosen = read_settings(
            bands=words(bands),
            factor=factor,
            method=method,
            dem=dem,
            geoid=geoid,
            days=days,
            masked=masked,
            changed=changed,
            labels=labels,
            artificial=words(artificial),
            most=most,
            tfrecords=tfrecords,
        )
    if dry_run:
        from otbsr.serving.dry_run import aligned_pairs_lines, product_pairs_lines

        lines = product_pairs_lines(lr, target, out, where, chosen, overwrite) if chosen else aligned_pairs_lines(lr, target, out, where, overwrite)
        print("\n".join(lines))
        return
    with bars(quiet, as_json) as report:
        if chosen:
            manifest = make_pairs(lr, target, out, where, chosen, data=data, overwrite=overwrite, keep=keep, report=report)
        else:
            manifest = extract_pairs(lr, target, out, where, data=data, overwrite=overwrite, report=report)
    splits = manifest["splits"]
    found: dict[str, Any] = {f"{name}_{key}": splits[name][key] for name in splits for key in ("accepted", "rejected")}
    if "alignment" in manifest:
        alignment = manifest["alignment"]
        found |= {"shift": [round(value, 3) for value in alignment["shift"]], "score": round(alignment["score"], 4), "gain": alignment["gain"]}
        found |= {f"rejected ({reason})": count for reason, count in manifest["rejected"].items() if count} | {"page": out / "pairs.html"}
    finish({"out": out, **found}, as_json)


products_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at products, find and download them, import data sets.")
app.add_typer(products_app, name="products", epilog="Example: otbsr products info S2A_MSIL2A_20230821.SAFE")
Token = Annotated[Path | None, typer.Option("--token-file", help="File with a token, sent as 'Authorization: Bearer'.")]


def authorised(token_file: Path | None) -> dict[str, str]:
    """Headers with the token in a file."""
    if token_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {token_file.read_text().strip()}"}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{token_file}: cannot be read ({error}); give a text file that holds the token") from error


@products_app.command("info", epilog="Example: otbsr products info S2A_MSIL2A_20230821.SAFE --json")
def products_info(
    path: Annotated[Path, typer.Argument(metavar="PRODUCT", help="SAFE, Theia or Spot DIMAP folder or zip, or an image.")],
    bands: Annotated[str, typer.Option(help="Names of an image's bands, in order, with commas.")] = "",
    surface: Annotated[str, typer.Option(help="Of a Theia product: FRE (corrected for slopes) or SRE.")] = "FRE",
    as_json: Json = False,
) -> None:
    """Print what a product is: bands, spacing, date, baseline, offsets, angles, masks, CRS, and what it lacks."""
    from otbsr.products import open_product
    from otbsr.products.info import describe, lines

    about = describe(open_product(path, words(bands) or None, surface=surface))
    if as_json:
        finish(about, as_json)
    else:
        print("\n".join(lines(about)))


SEARCH_EXAMPLE = "Example: otbsr products search DIM_SPOT6_PMS.XML --catalogue https://earth-search.aws.element84.com/v1 --days 5 --cloud 10"


@products_app.command("search", epilog=SEARCH_EXAMPLE)
def products_search(
    path: Annotated[Path, typer.Argument(metavar="PRODUCT", help="The scene that Sentinel-2 is wanted for, such as a Spot-6/7 product.")],
    catalogue: Annotated[str, typer.Option("--catalogue", help="Address of a STAC API.")],
    collection: Annotated[str, typer.Option(help="Collection of the catalogue.")] = "sentinel-2-l2a",
    when: Annotated[str, typer.Option("--date", help="Date wanted, such as 2023-06-14; default the product's.")] = "",
    days: Annotated[float, typer.Option(min=0, help="Largest gap between the dates.")] = 5.0,
    cloud: Annotated[float, typer.Option(min=0, max=100, help="Most cloud over a scene, percent.")] = 20.0,
    coverage: Annotated[float, typer.Option(min=0, max=1, help="Least share of the product that a scene covers.")] = 0.5,
    limit: Annotated[int, typer.Option(min=1, help="Scenes at most.")] = 10,
    bands: Annotated[str, typer.Option(help="Bands to download where scenes are no archives, with commas.")] = "B2,B3,B4,B8",
    download: Annotated[Path | None, typer.Option("--download", metavar="FOLDER", help="Download the best scene into this folder.")] = None,
    token_file: Token = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ask a STAC catalogue for Sentinel-2 of a product's place and time; on request, download the best. Uses the network."""
    from otbsr.products import catalogue as stac
    from otbsr.products import open_product

    product = open_product(path)
    time = stac.time_wanted(product, when)
    scenes = stac.search(catalogue, collection, stac.footprint_of(product), time, days, cloud, coverage, limit)
    result: dict[str, Any] = {"found": [scene.as_dict() for scene in scenes]} if as_json else {"found": len(scenes)}
    if not as_json:
        print("\n".join(stac.table(scenes)) or "no scene: allow more --days, --cloud or less --coverage")
    if download is not None and scenes:
        with bars(quiet, as_json) as report:
            result["product"] = stac.fetch_item(scenes[0], download, words(bands), authorised(token_file), overwrite, report)
    finish(result, as_json)


@products_app.command("download", epilog="Example: otbsr products download sen2venus --file 'ARM_*' -o data/sen2venus")
def products_download(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An address, or a data set: worldstrat, flair-hub, sen2venus, breizhsr.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    file: Annotated[list[str] | None, typer.Option("--file", help="Of a data set: only files of this name; * and ? stand for any; may be repeated.")] = None,
    checksum: Annotated[str, typer.Option(help="Of an address: sha256: or md5: and its digits.")] = "",
    listed: Annotated[bool, typer.Option("--list", help="Print the files and their sizes, download nothing.")] = False,
    token_file: Token = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download a file or a data set, checked by size and checksum; goes on where it stopped. Uses the network."""
    from otbsr.products.datasets import remotes
    from otbsr.products.download import fetch_all

    files = remotes(source, file or ["*"], checksum or None)
    if listed:
        finish({"files": [{"name": one.name, "bytes": one.size, "checksum": one.checksum, "url": one.url} for one in files]}, as_json)
        return
    with bars(quiet, as_json) as report:
        paths = fetch_all(files, out, authorised(token_file), overwrite, report)
    finish({"out": out, "files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}, as_json)


@products_app.command("import", epilog="Example: otbsr products import worldstrat data/worldstrat -o areas/worldstrat --limit 100")
def products_import(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="worldstrat, flair-hub, sen2venus or breizhsr.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the data set's archives were unpacked.")],
    out: Output,
    limit: Annotated[int | None, typer.Option(min=1, help="Areas at most.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a data set's areas as aligned input.tif and target.tif for `otbsr pairs`; goes on where it stopped."""
    from otbsr.products.datasets import import_dataset

    with bars(quiet, as_json) as report:
        done = import_dataset(dataset, root, out, limit, overwrite, report)
    finish({"out": out, **done}, as_json)


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
    from otbsr.methods.patches import read_manifests, read_pairs
    from otbsr.methods.settings import read_settings
    from otbsr.methods.training import require_new, train

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


@app.command()
def env() -> None:
    """Print the environment in which otbcli_* and Python find the applications (for QGIS: otbsr qgis-setup).

    Example: eval "$(otbsr env)" && otbcli_SuperResolution -help
    """
    import shlex

    from otbsr.serving.otb import otb_environment

    for key, value in otb_environment().items():
        if key in ("OTB_APPLICATION_PATH", "OTB_TF_LIBRARY"):
            print(f"export {key}={shlex.quote(value)}")


@app.command("qgis-setup", epilog="Example: otbsr qgis-setup --write-settings")
def qgis_setup_command(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to make [~/.local/share/otbsr/qgis].")] = None,
    write_settings: Annotated[bool, typer.Option("--write-settings", help="Write QGIS's settings (a backup is kept); close QGIS before.")] = False,
    profile: Annotated[str, typer.Option(help="Profile of QGIS.")] = "default",
    sources: Annotated[int, typer.Option(help="Sources of PatchesExtraction and TensorflowModelServe.")] = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prepare QGIS's OTB provider: a folder with OTB's applications and ours, and the settings that name it."""
    from otbsr.qgis.setup import qgis_setup

    with bars(quiet, as_json) as report:
        made = qgis_setup(out, write_settings, profile, sources, overwrite, report)
    result: dict[str, Any] = {"plugin": made.plugin, "OTB folder": made.folder, "OTB application folder": made.applications}
    result |= {"model": made.model, "style": made.style, "cached": made.cached}
    result |= {key: path for key, path in (("settings", made.settings), ("backup", made.backup)) if path}
    finish(result, as_json)


@app.command()
def doctor() -> None:
    """Check that OTB, the applications and TensorFlow work together here.

    Example: otbsr doctor
    """
    from otbsr.serving.doctor import checks

    failed = 0
    for check in checks():
        print(f"{'ok  ' if check.passed else 'FAIL' if check.needed else 'note'} {check.name}: {check.detail}", flush=True)
        failed += check.needed and not check.passed
    raise typer.Exit(1 if failed else 0)


APPLY_EXAMPLES = """Example: otbsr apply S2A_MSIL2A_20230821.SAFE --model models/f -o sr_2m5.tif

Another: otbsr apply S2A_MSIL2A_20230821.SAFE --model models/f --against models/p --validity -o sr_2m5.tif

Another: otbsr apply 'tiles/*.SAFE' --model models/f -o results --cluster local --workers 2

Another: otbsr apply --list tiles.txt --model models/f -o results --cluster slurm --workers 1-40 --threads 8
"""


def tell(line: str, as_json: bool = False) -> None:
    """Print a remark on stderr."""
    print(json.dumps({"message": line}) if as_json else f"otbsr: {line}", file=sys.stderr, flush=True)


@app.command("apply", epilog=APPLY_EXAMPLES)
def apply_command(
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The product; of several inputs a folder, or a path with {name}, such as results/{name}.vrt.")],
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="IN...", help="SAFE or Theia folder or image with the model's bands; several, or patterns such as '*.SAFE'.")
    ] = None,
    listed: Annotated[Path | None, typer.Option("--list", help="Text file with one input a line.")] = None,
    bands: Annotated[str, typer.Option("--bands", help="Names of an image's bands in its order, such as B2,B3,B4,B8; default its band descriptions.")] = "",
    scale: Annotated[float | None, typer.Option("--scale", help="Reflectance of one DN of an image; default the file's own, else 0.0001.")] = None,
    surface: Annotated[str, typer.Option("--surface", help="Of a Theia product: FRE (corrected for slopes) or SRE.")] = "FRE",
    resampling: Annotated[
        str, typer.Option("--resampling", help="How bands that do not nest in the finest band's grid come onto it: bilinear, cubic ... [refused].")
    ] = "",
    against: Annotated[Path | None, typer.Option("--against", help="Second model (P): OUT_disagreement.tif gets how far it is from --model, in DN.")] = None,
    validity: Annotated[bool, typer.Option("--validity", help="OUT_validity.tif gets 0: no data, 1: partly supported by data, 2: supported.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Limit of threads; default all.")] = None,
    ram: Annotated[int | None, typer.Option("--max-memory", "--ram", min=1, help="MiB of memory for pixels.")] = None,
    window: Annotated[int, typer.Option("--window", min=512, help="Side of the windows that are kept until the end, input pixels.")] = 4096,
    trust_model: Trust = False,
    cluster: Annotated[str, typer.Option("--cluster", help="Work on a dask cluster: local, slurm, pbs, ssh, or a scheduler's tcp://HOST:PORT.")] = "",
    workers: Annotated[str, typer.Option("--workers", help="Workers of the cluster: 4, or 1-8 for as many as there is work for.")] = "",
    hosts: Annotated[str, typer.Option("--hosts", help="Machines of --cluster ssh, with commas.")] = "",
    gpus: Annotated[int, typer.Option("--gpus", min=0, max=1, help="GPUs of each worker.")] = 0,
    cluster_options: Annotated[Path | None, typer.Option("--cluster-options", help="YAML file with further options of the cluster, such as queue.")] = None,
    slurm_script: Annotated[
        Path | None, typer.Option("--slurm-script", help="Write a Slurm array script that does the work without dask; submit it by: bash FILE.")
    ] = None,
    part: Annotated[int | None, typer.Option("--part", min=0, help="Make this window only; the same command without it puts all together.")] = None,
    skip_finished: Annotated[bool, typer.Option("--skip-finished", help="Leave a product as it is that exists and was made by this very command.")] = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Super-resolve a product or an image: same corner and footprint, spacing divided by the model's factor. Several go on where they stopped."""
    from contextlib import ExitStack

    from otbsr.serving.apply import apply, make_here, window_count
    from otbsr.serving.batch import apply_all, find_products, is_finished, outputs

    options: dict[str, Any] = {
        "bands": words(bands) or None,
        "scale": scale,
        "surface": surface,
        "resampling": resampling or None,
        "against": against,
        "validity": validity,
        "window": window,
        "trust_model": trust_model,
    }
    products = find_products(sources or [], listed)
    several = listed is not None or products != sources
    outs = outputs(products, out) if several or len(products) > 1 else [out]
    if dry_run:
        from otbsr.serving.dry_run import apply_lines

        if cluster or slurm_script is not None or part is not None:
            raise UsageError("--dry-run prints the lines of one machine's run; leave --cluster, --slurm-script and --part out")
        same = {key: options[key] for key in ("bands", "scale", "surface", "resampling", "against", "trust_model")}
        for product, one in zip(products, outs, strict=True):
            print("\n".join(apply_lines(product, model, one, **same, threads=threads, ram=ram)))
        return
    if slurm_script is not None:
        from otbsr.serving.slurm import write_script

        counts = [window_count(product, model, **options) for product in products]
        flags = {**options, "model": model.absolute(), "against": against and against.absolute(), "max-memory": ram, "skip-finished": True}
        size = write_script(slurm_script, products, outs, counts, flag_words({**flags, "bands": bands}), threads, ram, gpus)
        finish({"script": slurm_script, "products": len(products), "windows": sum(counts), "elements": size, "submit": f"bash {slurm_script}"}, as_json)
        return
    with ExitStack() as stack:
        farm = None
        if cluster:
            from otbsr.serving.cluster import ClusterSettings, open_cluster

            chosen = ClusterSettings.read(cluster, workers, threads, gpus, hosts, ram, cluster_options)
            farm = stack.enter_context(open_cluster(chosen, lambda line: None if quiet else tell(line, as_json)))
        report = stack.enter_context(bars(quiet, as_json))
        options |= {"threads": threads, "ram": ram}
        if len(outs) == 1 and outs[0] == out:
            if skip_finished and not overwrite and is_finished(out, products[0], model, **options):
                finish({"out": out, "finished": "before"}, as_json)
                return
            done = apply(products[0], model, out, overwrite=overwrite, report=report, only=part, run=farm.run if farm else make_here, **options)
        else:
            if part is not None:
                raise UsageError("--part makes a window of one product; give one")
            batch = apply_all(
                products,
                model,
                outs,
                at_once=min(farm.at_once(), len(products)) if farm else 1,
                run_for=farm.run_for if farm else None,
                stop=farm.stop if farm else None,
                report=report,
                failure=lambda product, error: tell(f"failed: {product}: {error}", as_json),
                overwrite=overwrite,
                **options,
            )
    if len(outs) == 1 and outs[0] == out:
        result = {"out": done.out, "grid": done.grid.describe(), "bands": " ".join(done.bands), "model": done.model, "seconds": done.seconds}
        result |= {key: path for key, path in (("disagreement", done.disagreement), ("validity", done.validity)) if path}
        finish(result | ({} if part is None else {"part": part}), as_json)
        return
    finish({"made": len(batch.done), "finished before": len(batch.skipped), "failed": len(batch.failed), "out": outs[0].parent}, as_json)
    batch.require_success()


def flag_words(options: dict[str, Any]) -> list[str]:
    """Options of a command as its words; those that are None, False or empty are left out."""
    found = []
    for key, value in options.items():
        if value not in (None, False, ""):
            found += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


QUALITY_EXAMPLES = """Example: otbsr quality sr_2m5.tif --reference spot_2m5.tif --input sentinel2_10m.tif --border 16

Another: otbsr quality bicubic.tif f.tif p.tif --reference spot_2m5.tif --input sentinel2_10m.tif --html quality.html
"""


@app.command("quality", epilog=QUALITY_EXAMPLES)
def quality_command(
    images: Annotated[list[Path] | None, typer.Argument(metavar="SR...", help="Super-resolved image, or several: each is compared with the first.")] = None,
    reference: Annotated[Path | None, typer.Option("--reference", help="Image of the truth on the same grid.")] = None,
    source: Annotated[Path | None, typer.Option("--input", help="Coarser image that SR was made from.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Image on the grid of SR or of the input: only pixels that are not 0 count.")] = None,
    scenes: Annotated[Path | None, typer.Option("--scenes", help="YAML or JSON list of scenes: name, images {method: file}, reference, input.")] = None,
    scores: Annotated[
        str,
        typer.Option(
            "--scores",
            help="all, basic (pixels, consistency), or of pixels, consistency, windows, shift, spectra, noise, edges, between, opensr.",
            autocompletion=shell.choices(shell.scores, True),
        ),
    ] = "all",
    border: Annotated[int, typer.Option("--border", min=0, help="Pixels of SR left out on each side.")] = 16,
    block: Annotated[int, typer.Option("--block", min=16, help="Side of the blocks by which images of one scene are compared, pixels.")] = 256,
    scale: Annotated[float | None, typer.Option("--scale", help="Reflectance of one DN of files that do not say it [0.0001].")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Limit of threads; default 4 at most.")] = None,
    maps: Annotated[Path | None, typer.Option("--maps", help="Folder for maps: error, angle, ssim, consistency (one image only).")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Page to write: table, spectra, frequencies, error maps, zooms.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score an image against a reference, the input it was made from, or both; reads windows, so that any size will do.

    Files hold reflectance (peak 1) times their scale. Pixels that any of them lacks do not count. Several images are compared in pairs
    on the same ground, by blocks of one scene or by the scenes of a list, with bootstrap intervals.
    """
    from otbsr.evaluation.comparison import score_all

    options = {"groups": words(scores), "border": border, "scale": scale, "threads": threads}
    with bars(quiet, as_json) as report:
        found = score_all(
            images or [], scenes, reference, source, mask, block=block, maps=maps, html=html, seed=seed, overwrite=overwrite, report=report, **options
        )
    if as_json:
        finish(found.as_dict(), as_json)
    else:
        print("\n".join(found.lines()))


STUDY_EXAMPLES = """Example: otbsr study demo/world --model models/f --out demo/study

Another: otbsr study areas/* --model models/f --against models/p --arms native,bicubic,f,p,spot,shuffled --learners rf,libsvm --out answer
"""


@app.command("study", epilog=STUDY_EXAMPLES)
def study_command(
    areas: Annotated[list[Path], typer.Argument(metavar="AREA...", help="Folders written by `otbsr simulate`, or real ones with the same file names.")],
    out: Output,
    model: Annotated[Path | None, typer.Option("--model", help="Model folder of method F.")] = None,
    against: Annotated[Path | None, typer.Option("--against", help="Second model (P): the arms p, f-p and blend.")] = None,
    settings_file: Annotated[Path | None, typer.Option("--settings", help="YAML file with settings and arms of your own; flags win.")] = None,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            help="Names of the arms, with commas [native, bicubic, bicubic-context, f, spot; p, f-p, blend].",
            autocompletion=shell.choices(shell.arms, True),
        ),
    ] = "",
    learners: Annotated[
        str, typer.Option("--learners", help="rf, libsvm, boost, knn, with commas [rf].", autocompletion=shell.choices(shell.learners, True))
    ] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random number [1].")] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Samplings of the training pixels, each with its own learners [3; 1 of 3 areas or more].")
    ] = None,
    folds: Annotated[int | None, typer.Option("--folds", help="Parts of the blocks, each judged by a learner trained on the others [5].")] = None,
    block: Annotated[float | None, typer.Option("--block", help="Side of the blocks, metres [500].")] = None,
    buffer: Annotated[float | None, typer.Option("--buffer", help="Metres around test blocks that nothing is trained on [60].")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Training pixels per class and fold, at most [500].")] = None,
    artificial: Annotated[bool | None, typer.Option("--artificial", help="Map two classes: artificial surfaces and the rest.")] = None,
    pool: Annotated[bool | None, typer.Option("--pool", help="One learner for all areas, folds over the blocks of all: for small areas.")] = None,
    smooth: Annotated[int | None, typer.Option("--smooth", help="Radius of a majority vote over the maps, pixels [0: none].")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Arms and areas worked on at once [2].")] = None,
    trust_model: Trust = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify native, interpolated, super-resolved and Spot images alike and say whether super-resolution helped. Goes on where it stopped."""
    from otbsr.evaluation.study import StudySettings, study

    settings = StudySettings.read(
        settings_file,
        model=model,
        against=against,
        choice=words(arms) or None,
        learners=words(learners) or None,
        seed=seed,
        repeats=repeats,
        folds=folds,
        block=block,
        buffer=buffer,
        samples=samples,
        artificial=artificial,
        pool=pool,
        smooth=smooth,
        jobs=jobs,
    )
    if dry_run:
        from otbsr.serving.dry_run import study_lines

        print("\n".join(study_lines(areas, out, settings, trust_model)))
        return
    with bars(quiet, as_json) as report:
        content = study(areas, out, settings, trust_model=trust_model, overwrite=overwrite, report=report)
    said = content["answer"] if as_json else " ".join([*content["answer"]["sentences"], *content["answer"]["cautions"]])
    finish({"answer": said, "report": out / "report.html"}, as_json)


@app.command("classify", epilog="Example: otbsr classify sr_2m5.tif --polygons training.gpkg --out map.tif --learner rf --confidence")
def classify_command(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image to map; every band is a feature.")],
    polygons: Annotated[Path, typer.Option("--polygons", help="Vector file with labelled polygons.")],
    out: Output,
    learner: Annotated[str, typer.Option("--learner", help="rf, libsvm, boost (two classes) or knn.", autocompletion=shell.choices(shell.learners))] = "rf",
    field: Annotated[str, typer.Option("--field", help="Integer field with the class code, 1 to 255.")] = "class",
    confidence: Annotated[bool, typer.Option("--confidence", help="OUT_confidence.tif gets the learner's confidence.")] = False,
    smooth: Annotated[int, typer.Option("--smooth", min=0, max=30, help="Radius of a majority vote over the map, pixels; 0: none.")] = 0,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Training pixels per class, at most.")] = 1000,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Limit of threads; default all.")] = None,
    seed: Seed = 1,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a land-cover map of one image by OTB: statistics, selection and extraction of samples, training, map."""
    from otbsr.evaluation.learners import classify_image
    from otbsr.serving.dry_run import classify_lines

    if dry_run:
        same: dict[str, Any] = {"learner": learner, "field": field, "confidence": confidence, "radius": smooth, "samples": samples, "seed": seed}
        print("\n".join(classify_lines(image, polygons, out, **same, threads=threads)))
        return
    with bars(quiet, as_json) as report:
        counts = classify_image(
            image,
            polygons,
            out,
            learner=learner,
            field=field,
            confidence=confidence,
            radius=smooth,
            samples=samples,
            seed=seed,
            overwrite=overwrite,
            threads=threads,
            report=report,
        )
    finish({"out": out, "learner": learner, "samples": " ".join(f"{code}:{number}" for code, number in counts.items())}, as_json)


@app.command("report", epilog="Example: otbsr report demo/study")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder written by `otbsr study`.")],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a study's maps again and write its report: study.json, measures.csv, differences.csv, changes/*.tif, report.html."""
    from otbsr.evaluation.evaluate import evaluate
    from otbsr.evaluation.report import write_report

    with bars(quiet, as_json) as report:
        content = evaluate(folder, report)
        page = write_report(folder, report=report)
    said = content["answer"] if as_json else " ".join([*content["answer"]["sentences"], *content["answer"]["cautions"]])
    finish({"answer": said, "report": page}, as_json)


VIEW_EXAMPLES = """Example: otbsr view sr_2m5.tif --input sentinel2_10m.tif

Another, of a study: otbsr view answer --port 8080 --no-browser
"""


@app.command("view", epilog=VIEW_EXAMPLES)
def view_command(
    results: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Image that `otbsr apply` wrote, folder of maps, or a study's folder.")],
    source: Annotated[Path | None, typer.Option("--input", help="Image or product that OUT was made from [the one that OUT names, beside it].")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of this machine to listen on; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    as_json: Json = False,
) -> None:
    """Look at a result in the browser: swipe between input and output, maps and scores over them. Ends with Ctrl-C.

    Listens on 127.0.0.1 only; the page fetches nothing from elsewhere. Needs `pip install 'otbsr[view]'`.
    """
    import webbrowser
    from contextlib import suppress

    from otbsr.view.layers import open_result
    from otbsr.view.server import Viewer

    scenes = open_result(results, source)
    with Viewer(scenes, port) as viewer, suppress(KeyboardInterrupt):
        remarks = [remark for scene in scenes for remark in scene.remarks]
        finish({"url": viewer.url, "layers": sum(len(scene.layers) for scene in scenes)} | ({"remarks": " ".join(remarks)} if remarks else {}), as_json)
        sys.stdout.flush()
        if browser:
            webbrowser.open(viewer.url)
        viewer.serve_forever()


if __name__ == "__main__":
    main()
