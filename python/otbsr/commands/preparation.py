"""Before the first image: `otbsr doctor`, `env` and `qgis-setup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import shell
from otbsr.commands.shared import Json, Overwrite, Quiet, finish
from otbsr.progress import bars

app = shell.Commands()


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
    result |= {key: path for key, path in (("settings", made.settings), ("backup", made.backup), ("note", made.remark)) if path}
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
