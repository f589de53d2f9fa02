"""Images to learn from: `otbsr simulate`, `aerial`, `products` and `pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import shell
from otbsr.commands.shared import DryRun, Json, Output, Overwrite, Quiet, Seed, finish, words
from otbsr.errors import InputError, UsageError, flaw
from otbsr.progress import bars

app = shell.Commands()


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
    resampling: Annotated[
        str | None, typer.Option(help="How input bands that do not nest in the finest band's grid come onto it: bilinear, cubic ... [refused].")
    ] = None,
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
            resampling=resampling,
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


products_app = shell.Commands(no_args_is_help=True, rich_markup_mode=None, help="Look at products, find and download them, import data sets.")
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
