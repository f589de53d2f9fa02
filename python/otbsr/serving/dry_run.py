"""The otbcli lines that a command would run, to be copied into a shell: `--dry-run` of apply, classify, pairs and study.

Lines that begin with # are remarks: what otbsr itself does in between, and lines of OTB whose numbers an earlier line has to find.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rasterio

from otbsr.serving.options import ApplyOptions
from otbsr.serving.otb import recording, run_otb, shell_line

if TYPE_CHECKING:
    from otbsr.evaluation.arms import Arm
    from otbsr.evaluation.study import Site, Study, StudySettings, Unit
    from otbsr.methods.model_folder import ModelFolder
    from otbsr.pairs.chain import ChainSettings, Meeting
    from otbsr.pairs.patches import PatchSettings
    from otbsr.products import Product


def remark(text: str) -> str:
    """A line for the reader, not for the shell."""
    return f"# {text}"


def folders(paths: Iterable[Path]) -> str:
    """The line that makes folders."""
    return shlex.join(["mkdir", "-p", *sorted({str(path) for path in paths})])


def heredoc(path: Path, text: str) -> str:
    """Shell lines that write a text file."""
    return f"cat > {shlex.quote(str(path))} <<'END'\n{text.rstrip()}\nEND"


def apply_lines(source: Path, model: Path, out: Path, options: ApplyOptions) -> list[str]:
    """One line a model for the whole image; an input that has to be put together first is written by the lines before it.

    `otbsr apply` runs the same by windows: the pixels do not depend on that. Raises what `apply` raises before its first run.
    """
    from otbsr.serving import apply as library

    models = options.open_models(model)
    library.require_writable(out, overwrite=True)
    product = options.open_source(source)
    lines = []
    for number, folder in enumerate(models):
        final = out.with_suffix(".tif") if not number else out.with_name(f"{out.stem}_second.tif")
        lines += image_lines(product, folder, final, options)
    if options.against is not None:
        lines.append(remark(f"otbsr computes {out.stem}_disagreement.tif from the two"))
    return lines


def image_lines(product: Product, folder: ModelFolder, out: Path, options: ApplyOptions) -> list[str]:
    """SuperResolution of a product; where bands have to be put together first, the lines that write a VRT of them beside `out`."""
    from otbsr.serving import apply as library

    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        vrt = Path(temporary).resolve() / f"{out.stem}_input.vrt"
        served, _ = library.prepare(product, folder.sidecar, vrt, options.resampling)
        if served == vrt:
            beside = str(out.absolute().parent)
            lines = [heredoc(out.parent / one.name, one.read_text().replace(str(vrt.parent), beside)) for one in sorted(vrt.parent.glob("*.vrt"))]
            served = out.parent / vrt.name
    with recording() as recorded:
        run_otb("SuperResolution", library.serving_parameters(served, folder, out, None, options), threads=options.threads)
    return lines + recorded


def classify_lines(
    image: Path,
    polygons: Path,
    out: Path,
    *,
    learner: str = "rf",
    field: str = "class",
    confidence: bool = False,
    radius: int = 0,
    samples: int = 1000,
    seed: int = 1,
    threads: int | None = None,
) -> list[str]:
    """The chain of `classify_image`, its steps' files in the folder OUT.steps.

    The polygons' pixels are counted now (ManageNoData, PolygonClassStatistics, in a temporary folder): the numbers of samples depend on them.
    """
    from otbsr.evaluation import learners
    from otbsr.serving.apply import require_writable

    require_writable(out, overwrite=True)
    _, chosen = learners.open_training(image, polygons, field, learner, confidence)
    with rasterio.open(image) as dataset:
        count = dataset.count
    with tempfile.TemporaryDirectory() as temporary:
        made = learners.write_mask(image, Path(temporary) / "mask.tif")
        there = learners.count_polygons(image, polygons, Path(temporary), field, made)
    wanted = learners.samples_wanted(image, polygons, there, samples, chosen)
    steps, copied = out.with_name(f"{out.stem}.steps"), field.lower()  # SQLite files have names in small letters
    scaling = steps / "scaling.xml" if chosen.scaled else None
    mapped = steps / "map.tif" if radius else out
    sure = out.with_name(f"{out.stem}_confidence.tif") if confidence else None
    with recording() as lines:
        mask = learners.write_mask(image, steps / "mask.tif")
        learners.write_counts(image, polygons, steps / "polygons.xml", field, mask)
        lines.append(heredoc(steps / "wanted.csv", learners.wanted_table(wanted)))
        points = learners.choose_points(image, polygons, seed, steps, field, mask)
        learners.read_values(image, points, steps / "samples.sqlite", field=copied)
        if scaling:
            learners.write_scaling([image], scaling, mask)
        learners.train([steps / "samples.sqlite"], count, steps / "learner.model", chosen, seed, scaling, copied)
        learners.classify(image, steps / "learner.model", mapped, confidence=sure, mask=mask, scaling=scaling, threads=threads)
        if radius:
            learners.regularise(mapped, out, radius)
    return [folders([steps]), *lines]


def aligned_pairs_lines(lr: Path, target: Path, out: Path, settings: PatchSettings, overwrite: bool = False) -> list[str]:
    """What `extract_pairs` runs for two aligned images: the points of each split, then PatchesExtraction. Raises as it does."""
    from otbsr.pairs import patches

    patches.require_new(out, overwrite)
    both = patches.Both.open(lr, target)
    lines = [folders([out])]
    for split, corners in patches.place(both.coarse, settings).items():
        if len(corners):
            points = out / f"{split}.geojson"
            lines.append(heredoc(points, geojson(patches.centres(corners, both.coarse, both.fine, settings.patch).tolist(), both.coarse.crs)))
            with recording() as recorded:
                patches.run_extraction(points, both, [out / f"{split}_lr.tif", out / f"{split}_target.tif"], settings.patch)
            lines += recorded
    return [*lines, remark(f"otbsr writes {out / 'manifest.json'}, which `otbsr train` reads")]


def geojson(points: Iterable[Sequence[float]], crs: str) -> str:
    """Points with their number in the field `patch`, one a line, in the coordinates of `crs`."""
    features = [
        json.dumps({"type": "Feature", "properties": {"patch": number}, "geometry": {"type": "Point", "coordinates": list(point)}})
        for number, point in enumerate(points)
    ]
    code = rasterio.CRS.from_string(crs).to_epsg() if crs else None
    member = f' "crs": {{"type": "name", "properties": {{"name": "urn:ogc:def:crs:EPSG::{code}"}}}},' if code else ""
    return f'{{"type": "FeatureCollection",{member} "features": [\n' + ",\n".join(features) + "\n]}"


def product_pairs_lines(sentinel2: Path, spot: Path, out: Path, patches: PatchSettings, settings: ChainSettings, overwrite: bool = False) -> list[str]:
    """What `make_pairs` runs, between its own steps, whose products `otbsr pairs ... --keep` leaves in OUT.steps. Raises as `make_pairs` does at once."""
    from otbsr.pairs.chain import Meeting
    from otbsr.pairs.patches import require_new
    from otbsr.products import open_product

    require_new(out, overwrite)
    return meeting_lines(Meeting(open_product(sentinel2), open_product(spot).renamed(), settings, patches), out)


def meeting_lines(plan: Meeting, out: Path) -> list[str]:
    """The same for products that were looked at."""
    from otbsr.grid import Grid
    from otbsr.pairs import chain, orthorectification
    from otbsr.pairs.patches import SPLITS, Both, run_extraction
    from otbsr.products.product import NODATA

    settings, patches = plan.settings, plan.patches
    steps, last = chain.steps_of(out), {}
    lines = [
        remark(f"otbsr does the steps between these lines; `otbsr pairs ... --keep` leaves their files in {steps}, and these lines can be run again"),
        remark(f"otbsr: {', '.join(str(steps / name) for name in ('input.tif', 'masks.tif'))}: the input on the common ground, and what hides it"),
    ]
    with recording() as recorded:
        for kind, names in plan.images.items():
            last[kind] = steps / f"spot_{kind}.tif"
            lines.append(remark(f"otbsr: {last[kind]}: {', '.join(names)} in reflectance x 10000"))
            if plan.spot.sensor:
                band = plan.spot.select(names)[0]
                if rpcs := orthorectification.rpcs_of(band.path):
                    lines.append(heredoc(last[kind].with_suffix(".geom"), orthorectification.geom_file(rpcs)))
                mapped = steps / f"spot_{kind}_map.tif"
                orthorectification.run_orthorectification(last[kind], mapped, plan.grid.crs, band.spacing, settings.dem, settings.geoid)
                lines.append(recorded.pop())
                last[kind] = mapped
        sharp = last["multispectral"]
        if "pan" in last:
            sharp = steps / "sharp.tif"
            orthorectification.run_pansharpening(last["pan"], last["multispectral"], sharp, settings.method)
            lines.append(recorded.pop())
        if not plan.spot.sensor and not Grid.same_crs(plan.spot.grid([plan.sharpest]), plan.grid):
            lines.append(remark(f"otbsr: {steps / 'sharp_map.tif'}: {sharp} in the input's coordinate reference system"))
        lines.append(remark(f"otbsr: {steps / 'target.tif'}: aligned, resampled and harmonised; {steps / 'quality.tif'}: what differs from the input"))
        chain.run_selection(steps / "input.tif", steps / "candidates.gpkg", patches)
        lines.append(recorded.pop())
        lines.append(remark(f"otbsr: {' and '.join(str(out / f'{split}.gpkg') for split in SPLITS)}: the patches without clouds and changes, by split"))
        coarse = plan.grid
        images = (steps / "input.tif", steps / "target.tif")
        both = Both(images, coarse, coarse.refined(settings.factor), settings.factor, list(settings.bands), plan.outputs, (NODATA, NODATA))
        for split in SPLITS:
            run_extraction(out / f"{split}.gpkg", both, [steps / f"{split}_lr.tif", steps / f"{split}_target.tif"], patches.patch)
            lines.append(recorded.pop())
    return [*lines, remark(f"otbsr: the same as {out / 'train_lr.tif'} ..., and {out / 'manifest.json'}, which `otbsr train` reads")]


def study_lines(areas: Sequence[Path], out: Path, settings: StudySettings, trust_model: bool = False) -> list[str]:
    """What `study` runs: the images of models, the samples, and each map, with files in OUT.steps. Raises as `study` before it writes."""
    from otbsr.evaluation.study import open_study

    work = open_study(areas, out, settings, trust_model)
    work.prepare()
    steps = out.with_name(f"{out.name}.steps")
    lines = [remark("1. The arms' images: these lines can be run at once.")]
    bands: dict[str, int] = {}
    for site in work.sites:
        for arm in work.arms:
            bands[arm.name] = arm.recipe.bands(site.area, bands)
            lines += arm_lines(work, site, arm)
    lines += [
        remark(f"2. The samples: these lines need {out / 'areas'}, which `otbsr study` writes first."),
        remark("How many samples of a class are taken follows from polygons.xml; so SampleSelection stands here as a remark."),
    ]
    for group in sorted({site.group for site in work.sites}):
        for repeat in work.repeats:
            lines += sample_lines(work, work.members(group), repeat, steps)
    lines.append(
        remark(f"3. The maps: these lines need {out / 'areas'}, {out / 'arms'} and {out / 'samples'}, which `otbsr study` writes before. ogr2ogr: gdal-bin.")
    )
    for unit in work.units():
        lines += unit_lines(work, unit, bands[unit.arm], steps)
    return [*lines, remark("otbsr counts the maps by block, and writes the report")]


def arm_lines(work: Study, site: Site, arm: Arm) -> list[str]:
    """An arm's image: OTB's lines where it is a model's, else a remark."""
    from otbsr.evaluation.recipes import Model, OtherDate
    from otbsr.products import open_product

    image, recipe, lines = work.image(site, arm.name), arm.recipe, []
    if isinstance(recipe, OtherDate) and "other" in site.area.others:
        recipe, image = Model(model=recipe.other_date, other_date=True), image.with_name(f"{image.stem}-other.tif")
    if isinstance(recipe, Model):
        folder = work.models[str(recipe.model)]
        lines = [folders([image.parent]), *image_lines(open_product(recipe.source(site.area, work.trust)), folder, image, ApplyOptions(trust_model=work.trust))]
    if recipe is not arm.recipe or not lines:
        lines.append(remark(f"otbsr: {work.image(site, arm.name)}: {arm.title}"))
    return lines


def sample_lines(work: Study, sites: Sequence[Site], repeat: int, steps: Path) -> list[str]:
    """The samples of one repeat in areas that share learners."""
    from otbsr.evaluation import learners
    from otbsr.evaluation.work import seed_of

    lines = []
    for fold in range(sites[0].count):
        for site in sites:
            scratch, polygons = steps / f"{site.name}-{repeat}-{fold}", site.folder / f"train_{fold}.gpkg"
            with recording() as recorded:
                learners.write_counts(site.reference, polygons, scratch / "polygons.xml")
                learners.choose_points(site.reference, polygons, seed_of(work.settings.seed, site.name, repeat, fold), scratch)
            lines += [folders([scratch]), recorded[0], remark(recorded[1])]
    return [*lines, *(remark(f"otbsr: {work.points(site, repeat)}: the samples of all folds, shuffled") for site in sites)]


def unit_lines(work: Study, unit: Unit, features: int, steps: Path) -> list[str]:
    """Learners and maps of one arm, learner and repeat; the folds' maps added up are the area's."""
    from otbsr.evaluation import learners
    from otbsr.evaluation.work import seed_of

    sites, learner = work.members(unit.group), work.learners[unit.learner]
    scratch = steps / f"{unit.group}-{unit.arm}-{unit.learner}-{unit.repeat}"
    scaling = scratch / "scaling.xml" if learner.scaled else None
    parts: dict[str, list[Path]] = {site.name: [] for site in sites}
    with recording() as lines:
        for site in sites:
            learners.read_values(work.image(site, unit.arm), work.points(site, unit.repeat), scratch / f"{site.name}.sqlite")
        if scaling:
            learners.write_scaling([work.image(site, unit.arm) for site in sites], scaling)
        for fold in range(sites[0].count):
            vectors = [scratch / f"{site.name}-{fold}.gpkg" for site in sites]
            lines += [fold_line(scratch / f"{site.name}.sqlite", out, fold, learner.most, len(sites)) for site, out in zip(sites, vectors, strict=True)]
            model = scratch / f"{fold}.model"
            learners.train(vectors, features, model, learner, seed_of(work.settings.seed, "learner", unit.repeat, fold), scaling)
            for site in sites:
                if site.tested(fold):
                    found = scratch / f"{site.name}-{fold}.tif"
                    sure = found.with_name(f"{found.stem}-confidence.tif") if learner.confidence else None
                    learners.classify(work.image(site, unit.arm), model, found, confidence=sure, mask=site.mask(fold), scaling=scaling, threads=1)
                    parts[site.name].append(found)
        for site in sites:
            lines += whole_lines(site, parts[site.name], scratch, work.settings.smooth)
    return [remark(f"arm {unit.arm}, learner {unit.learner}, repeat {unit.repeat}"), folders([scratch]), *lines]


def fold_line(samples: Path, out: Path, fold: int, most: int | None, share: int) -> str:
    """The samples of one fold, of each class the first `most` / `share` (None: all)."""
    chosen = ["-where", f"fold = {fold}", str(out), str(samples)]
    if most:
        ranked = "SELECT *, row_number() OVER (PARTITION BY fold, label ORDER BY ogc_fid) AS place FROM output"
        number = max(1, most // share)
        chosen = ["-sql", f"SELECT * FROM ({ranked}) WHERE fold = {fold} AND place <= {number} ORDER BY ogc_fid", str(out), str(samples)]
    return shlex.join(["ogr2ogr", *chosen])


def whole_lines(site: Site, parts: Sequence[Path], scratch: Path, smooth: int) -> list[str]:
    """The area's map from those of its folds, and its confusion matrix."""
    from otbsr.evaluation import learners

    def band_math(images: Sequence[Path], expression: str, out: Path) -> str:
        return shell_line("BandMath", {"il": list(images), "exp": expression, "out": [out, "uint8"]}, 1)

    whole, added, voted = (scratch / f"{site.name}{ending}.tif" for ending in ("", "-added", "-smooth"))
    with recording() as lines:
        lines.append(band_math(parts, " + ".join(f"im{number}b1" for number in range(1, len(parts) + 1)), added if smooth else whole))
        if smooth:
            learners.regularise(added, voted, smooth)
            lines.append(band_math([voted, site.reference], "im2b1 > 0 ? im1b1 : 0", whole))
        learners.write_confusion(whole, site.reference, scratch / f"{site.name}-confusion.csv")
    return lines
