"""`python3 tools/release_notes.py v0.2.0`: the part of CHANGELOG.md that belongs to a tag, for the release's page.

`--close v0.2.0 --date 2026-12-01` gives what is under "Unreleased" that version and date in CHANGELOG.md and begins an empty "Unreleased".
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
OPEN = "## Unreleased"


def sections(text: str) -> dict[str, str]:
    """The changelog's parts by version ("Unreleased", "0.2.0"), without their headings."""
    parts = re.split(r"^## +\[?v?([^\]\s]+)\]?.*$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def notes(text: str, tag: str) -> str:
    """What the changelog says of a tag; raises `ValueError` when it says nothing."""
    found, version = sections(text), tag.removeprefix("v")
    if not found.get(version):
        raise ValueError(f"CHANGELOG.md has nothing about {version}, only about {', '.join(found)}; run tools/release_notes.py --close {tag}")
    return found[version]


def close(text: str, tag: str, date: str) -> str:
    """The changelog with "Unreleased" as the version of `tag`; raises `ValueError` when nothing is unreleased or the version is there."""
    found, version = sections(text), tag.removeprefix("v")
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise ValueError(f"{tag}: expected a version such as v0.2.0")
    if version in found:
        raise ValueError(f"CHANGELOG.md has {version} already; choose the next version")
    if not found.get("Unreleased"):
        raise ValueError("CHANGELOG.md has nothing under Unreleased: nothing to release")
    return text.replace(OPEN, f"{OPEN}\n\n## {version} ({date})", 1)


def main() -> int:
    """Print the notes, or close the version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tag")
    parser.add_argument("--close", action="store_true")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    given = parser.parse_args()
    text = CHANGELOG.read_text(encoding="utf-8")
    try:
        if given.close:
            CHANGELOG.write_text(close(text, given.tag, given.date), encoding="utf-8")
        else:
            print(notes(text, given.tag))
    except ValueError as error:
        print(f"release_notes: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
