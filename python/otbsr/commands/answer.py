"""Does it help? `otbsr study`, `classify` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import shell
from otbsr.commands.shared import DryRun, Json, Output, Overwrite, Quiet, Seed, Trust, finish, words
from otbsr.progress import bars

app = shell.Commands()


def finish_study(answer: dict[str, Any], page: Path, as_json: bool) -> None:
    """Print a study's answer, for people as its sentences, and where its report is."""
    finish({"answer": answer if as_json else " ".join([*answer["sentences"], *answer["cautions"]]), "report": page}, as_json)


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
    finish_study(content["answer"], out / "report.html", as_json)


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

    if dry_run:
        from otbsr.serving.dry_run import classify_lines

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
    finish_study(content["answer"], page, as_json)
