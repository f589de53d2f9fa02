"""Super-resolve, and look: `otbsr apply`, `quality` and `view`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import shell
from otbsr.commands.shared import DryRun, Json, ModelFolder, Overwrite, Quiet, Seed, Trust, finish, tell, words
from otbsr.errors import UsageError
from otbsr.progress import bars

app = shell.Commands()

APPLY_EXAMPLES = """Example: otbsr apply S2A_MSIL2A_20230821.SAFE --model models/f -o sr_2m5.tif

Another: otbsr apply S2A_MSIL2A_20230821.SAFE --model models/f --against models/p --validity -o sr_2m5.tif

Another: otbsr apply 'tiles/*.SAFE' --model models/f -o results --cluster local --workers 2

Another: otbsr apply --list tiles.txt --model models/f -o results --cluster slurm --workers 1-40 --threads 8
"""


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
    from otbsr.serving.options import ApplyOptions

    options = ApplyOptions(
        bands=words(bands) or None,
        scale=scale,
        surface=surface,
        resampling=resampling or None,
        against=against,
        validity=validity,
        threads=threads,
        ram=ram,
        window=window,
        trust_model=trust_model,
    )
    products = find_products(sources or [], listed)
    several = listed is not None or products != sources
    outs = outputs(products, out) if several or len(products) > 1 else [out]
    if dry_run:
        from otbsr.serving.dry_run import apply_lines

        if cluster or slurm_script is not None or part is not None:
            raise UsageError("--dry-run prints the lines of one machine's run; leave --cluster, --slurm-script and --part out")
        for product, one in zip(products, outs, strict=True):
            print("\n".join(apply_lines(product, model, one, options)))
        return
    if slurm_script is not None:
        from otbsr.serving.slurm import write_script

        counts = [window_count(product, model, options) for product in products]
        size = write_script(slurm_script, products, outs, counts, model, options, gpus)
        finish({"script": slurm_script, "products": len(products), "windows": sum(counts), "elements": size, "submit": f"bash {slurm_script}"}, as_json)
        return
    with ExitStack() as stack:
        farm = None
        if cluster:
            from otbsr.serving.cluster import ClusterSettings, open_cluster

            chosen = ClusterSettings.read(cluster, workers, threads, gpus, hosts, ram, cluster_options)
            farm = stack.enter_context(open_cluster(chosen, lambda line: None if quiet else tell(line, as_json)))
        report = stack.enter_context(bars(quiet, as_json))
        if len(outs) == 1 and outs[0] == out:
            if skip_finished and not overwrite and is_finished(out, products[0], model, options):
                finish({"out": out, "finished": "before"}, as_json)
                return
            done = apply(products[0], model, out, options, overwrite=overwrite, report=report, only=part, run=farm.run if farm else make_here)
        else:
            if part is not None:
                raise UsageError("--part makes a window of one product; give one")
            batch = apply_all(
                products,
                model,
                outs,
                options,
                at_once=min(farm.at_once(), len(products)) if farm else 1,
                run_for=farm.run_for if farm else None,
                stop=farm.stop if farm else None,
                report=report,
                failure=lambda product, error: tell(f"failed: {product}: {error}", as_json),
                overwrite=overwrite,
            )
    if len(outs) == 1 and outs[0] == out:
        result = {"out": done.out, "grid": done.grid.describe(), "bands": " ".join(done.bands), "model": done.model, "seconds": done.seconds}
        result |= {key: path for key, path in (("disagreement", done.disagreement), ("validity", done.validity)) if path}
        finish(result | ({} if part is None else {"part": part}), as_json)
        return
    finish({"made": len(batch.done), "finished before": len(batch.skipped), "failed": len(batch.failed), "out": outs[0].parent}, as_json)
    batch.require_success()


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
            help="all, basic (pixels, consistency), or of pixels, consistency, windows, shift, spectra, noise, edges, between, opensr, perceptual.",
            autocompletion=shell.choices(shell.scores, True),
        ),
    ] = "all",
    border: Annotated[int, typer.Option("--border", min=0, help="Pixels of SR left out on each side.")] = 16,
    block: Annotated[int, typer.Option("--block", min=16, help="Side of the blocks by which images of one scene are compared, pixels.")] = 256,
    scale: Annotated[float | None, typer.Option("--scale", help="Reflectance of one DN of files that do not say it [0.0001].")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Limit of threads; default 4 at most.")] = None,
    perceptual: Annotated[Path | None, typer.Option("--perceptual", help="Folder of your weights for LPIPS and DISTS (doc/usage.md).")] = None,
    white: Annotated[float | None, typer.Option("--white", help="Reflectance that LPIPS and DISTS see as white [0.3].")] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="Folder for maps: error, angle, ssim, consistency, LPIPS, before and after correction (one image).")
    ] = None,
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

    files: dict[str, Any] = {"maps": maps, "html": html, "perceptual": perceptual, "white": white, "seed": seed, "overwrite": overwrite}
    options: dict[str, Any] = {"groups": words(scores), "border": border, "scale": scale, "threads": threads}
    with bars(quiet, as_json) as report:
        found = score_all(images or [], scenes, reference, source, mask, block=block, report=report, **files, **options)
    if as_json:
        finish(found.as_dict(), as_json)
    else:
        print("\n".join(found.lines()))


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
