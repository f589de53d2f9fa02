"""What the commands have in common: options, lists in options, and how results and remarks are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from otbsr import shell

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


def tell(line: str, as_json: bool = False) -> None:
    """Print a remark on stderr."""
    print(json.dumps({"message": line}) if as_json else f"otbsr: {line}", file=sys.stderr, flush=True)
