"""The otbcli lines that a command would run, to be copied into a shell: `otbsr apply --dry-run`, `otbsr classify --dry-run`."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import rasterio

from otbsr.serving.options import ApplyOptions
from otbsr.serving.otb import recording, run_otb


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
        with tempfile.TemporaryDirectory() as temporary:
            vrt = Path(temporary).resolve() / f"{final.stem}_input.vrt"
            served, _ = library.prepare(product, folder.sidecar, vrt, options.resampling)
            if served == vrt:
                beside = str(out.absolute().parent)
                lines += [heredoc(out.parent / one.name, one.read_text().replace(str(vrt.parent), beside)) for one in sorted(vrt.parent.glob("*.vrt"))]
                served = out.parent / vrt.name
        with recording() as recorded:
            run_otb("SuperResolution", library.serving_parameters(served, folder, final, None, options), threads=options.threads)
        lines += recorded
    if options.against is not None:
        lines.append(f"# otbsr computes {out.stem}_disagreement.tif from the two")
    return lines


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

    The polygons' pixels are counted now (PolygonClassStatistics, in a temporary folder): the numbers of samples depend on them.
    """
    from otbsr.evaluation import learners
    from otbsr.serving.apply import require_writable

    require_writable(out, overwrite=True)
    _, chosen = learners.open_training(image, polygons, field, learner, confidence)
    with rasterio.open(image) as dataset:
        count = dataset.count
    with tempfile.TemporaryDirectory() as temporary:
        there = learners.count_polygons(image, polygons, Path(temporary), field)
    wanted = learners.samples_wanted(image, polygons, there, samples, chosen)
    steps, copied = out.with_name(f"{out.stem}.steps"), field.lower()  # SQLite files have names in small letters
    scaling = steps / "scaling.xml" if chosen.scaled else None
    mapped = steps / "map.tif" if radius else out
    sure = out.with_name(f"{out.stem}_confidence.tif") if confidence else None
    with recording() as lines:
        run_otb("PolygonClassStatistics", {"in": image, "vec": polygons, "field": field, "out": steps / "polygons.xml"}, threads=1)
        lines.append(heredoc(steps / "wanted.csv", learners.wanted_table(wanted)))
        points = learners.choose_points(image, polygons, seed, steps, field)
        learners.read_values(image, points, steps / "samples.sqlite", field=copied)
        if scaling:
            learners.write_scaling([image], scaling)
        learners.train([steps / "samples.sqlite"], count, steps / "learner.model", chosen, seed, scaling, copied)
        learners.classify(image, steps / "learner.model", mapped, confidence=sure, scaling=scaling, threads=threads)
        if radius:
            learners.regularise(mapped, out, radius)
    return [f"mkdir -p {shlex.quote(str(steps))}", *lines]
