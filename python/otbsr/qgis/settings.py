"""QGIS's settings file (QGIS3.ini), changed in the lines that matter and nowhere else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from otbsr.errors import InputError, OutputError, first_line
from otbsr.files import write_text

PLUGINS = ("orfeoToolbox_provider", "otbprovider")
"""The separate provider (for QGIS from 3.36 on) and the one built into QGIS 3.22 to 3.34: the same settings."""


def profile_folder(profile: str) -> Path:
    """The folder of a user's profile in QGIS; QGIS_CUSTOM_CONFIG_PATH counts as it does for QGIS."""
    root = os.environ.get("QGIS_CUSTOM_CONFIG_PATH")
    base = Path(root) if root else Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "QGIS" / "QGIS3"
    return base / "profiles" / profile


def provider_plugin(profile: Path, search: str = "/usr/local/bin:/usr/bin") -> tuple[str, str | None]:
    """The plugin that provides OTB: the separate one where the profile has it or QGIS has none of its own, else the built-in one.

    Args:
        profile: folder of the profile.
        search: folders in which the program `qgis` is looked for.

    Returns:
        The plugin's name, and what the user has to install before it works (None: nothing that is known).

    """
    if (profile / "python" / "plugins" / PLUGINS[0]).is_dir():
        return PLUGINS[0], None
    program = shutil.which("qgis", path=search)
    plugins = Path(program).parents[1] / "share" / "qgis" / "python" / "plugins" if program else None
    if plugins is not None and plugins.is_dir() and not (plugins / PLUGINS[1]).is_dir():
        return PLUGINS[0], "this QGIS has no OTB provider of its own: install 'OrfeoToolbox provider' in it (Plugins, Manage and Install Plugins)"
    return PLUGINS[1], None


def wanted(plugin: str, otb_folder: Path, application_folder: Path) -> dict[tuple[str, str], str]:
    """What the file must say: (section, key) -> value."""
    folders = {"OTB_FOLDER": otb_folder, "OTB_APP_FOLDER": application_folder}
    return {("PythonPlugins", plugin): "true"} | {("Processing", f"Configuration\\{key}"): str(path) for key, path in folders.items()}


def value_of(text: str, section: str, key: str) -> str | None:
    """The value of a key, None when the file has none."""
    place = find(text.splitlines(), section, key)[1]
    return None if place is None else text.splitlines()[place].partition("=")[2].strip()


def find(lines: list[str], section: str, key: str) -> tuple[int | None, int | None]:
    """The numbers of the lines of the section's head and of the key."""
    current, head = "", None
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"\s*\[(.*)\]\s*", line):
            current = match.group(1)
            head = number if current == section else head
        elif current == section and line.partition("=")[0].strip() == key:
            return head, number
    return head, None


def changed(text: str, values: Mapping[tuple[str, str], str]) -> str:
    """The file's text with these values; every other line as it was."""
    lines = text.splitlines()
    for (section, key), value in values.items():
        head, place = find(lines, section, key)
        if place is not None:
            lines[place] = f"{key}={value}"
        elif head is not None:
            lines.insert(head + 1, f"{key}={value}")
        else:
            lines += ([""] if lines else []) + [f"[{section}]", f"{key}={value}"]
    return "\n".join(lines) + "\n"


def write_settings(file: Path, values: Mapping[tuple[str, str], str], overwrite: bool = False) -> Path | None:
    """Put values into a settings file; a file that has them is not touched.

    Args:
        file: QGIS3.ini; made with its folders where it is missing.
        values: (section, key) -> value.
        overwrite: replace paths that somebody else has set.

    Returns:
        The backup of what was there before (a new file beside it), None when there was nothing or nothing to change.

    Raises:
        InputError: the file is not text.
        OutputError: other paths are set (without `overwrite`), or the file cannot be written.

    """
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); expected QGIS's settings, make it readable or set the folders in QGIS") from error
    after = changed(before or "", values)
    if before is not None and all(value_of(before, *place) == value for place, value in values.items()):
        return None
    for (section, key), value in values.items():
        other = value_of(before or "", section, key)
        if section == "Processing" and other not in (None, "", value) and not overwrite:
            raise OutputError(f"{file}: {key} is {other}, not {value}; add --overwrite to replace it (a backup is kept)")
    remedy = "check its rights, or set the two folders in QGIS"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        backup = None
        if before is not None:
            backup = next(path for number in count(1) if not (path := file.with_name(f"{file.name}.backup{number}")).exists())
            backup.write_bytes(file.read_bytes())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({first_line(error)}); {remedy}") from error
    write_text(file, after, remedy)
    return backup
