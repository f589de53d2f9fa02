"""Files that are there whole or not at all: a hidden name until the last byte is written. Rasters, which need a closer look: `otbsr.raster`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from otbsr.errors import OutputError

SPACE = "check the free space"


@contextmanager
def new_file(out: Path, remedy: str = SPACE) -> Iterator[Path]:
    """Where to write the file `out`: a hidden name beside it, which becomes `out` when the block ends well. Makes the folder.

    Otherwise the file goes away and what was called `out` before stays. An `OSError` becomes an `OutputError` with `remedy`.
    """
    temporary = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(out: Path, text: str, remedy: str = SPACE) -> None:
    """Write a text in UTF-8, its line ends as they are; raises `OutputError`."""
    with new_file(out, remedy) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(out: Path, content: Mapping[str, Any], remedy: str = SPACE) -> None:
    """Write JSON; raises `OutputError`."""
    write_text(out, json.dumps(content, indent=1) + "\n", remedy)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises `OSError`."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()
