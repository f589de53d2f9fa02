"""The `otbsr` command: thin shells over the library (`otbsr.commands`) put together. Same options, same names, in every command."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from otbsr import shell
from otbsr.commands import answer, images, models, preparation, serving
from otbsr.errors import OtbsrError

app = typer.Typer(
    name="otbsr",
    cls=shell.Road,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does super-resolving Sentinel-2 help land-cover mapping, here, with my data?",
    epilog="Begin with `otbsr doctor`. `otbsr COMMAND --help` shows options and an example; `otbsr --install-completion` teaches your shell.",
)
for part in (preparation, images, models, serving, answer):
    app.add_typer(part.app)


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
        from otbsr import __version__

        print(f"otbsr {__version__}")
        raise typer.Exit


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Options before the command."""


if __name__ == "__main__":
    main()
