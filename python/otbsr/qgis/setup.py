"""`otbsr qgis-setup`: a folder that QGIS's OTB provider takes for an installed OTB, with OTB's applications and ours.

The provider starts one program by its name in one folder, with one folder of applications, in an empty environment; it knows only the
applications that have a description. So the folder holds a launcher that restores the environment, links, and descriptions.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otbsr import __version__
from otbsr.errors import MissingToolError, OutputError, ProcessingError, UsageError
from otbsr.files import new_file, new_folder, write_json
from otbsr.progress import Report, silent
from otbsr.qgis import settings
from otbsr.qgis.descriptions import mended, mended_theirs
from otbsr.raster import stamp
from otbsr.serving import otb

MANIFEST = "otbsr-qgis.json"
DESCRIPTOR = "otbQgisDescriptor"
MODEL = "super_resolve_classify_compare.model3"
STYLE = "land_cover.qml"
DATA = Path(__file__).resolve().parent
PASSED_ON = ("OTB_TF_LIBRARY", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "GDAL_DATA", "PROJ_LIB", "PROJ_DATA", "TF_ENABLE_ONEDNN_OPTS", "MALLOC_ARENA_MAX")
"""Variables that the launcher sets as they are when the folder is made: QGIS gives none of them."""


@dataclass(frozen=True)
class Setup:
    """What was made: QGIS's two folder settings, the plugin that reads them, the model and the style, what became of QGIS's files, what is left to do."""

    folder: Path
    applications: Path
    plugin: str
    model: Path
    style: Path
    cached: bool
    settings: Path | None = None
    backup: Path | None = None
    remark: str | None = None


def default_folder() -> Path:
    """Where the folder goes when nothing is said: ~/.local/share/otbsr/qgis (XDG_DATA_HOME counts)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "otbsr" / "qgis"


def qgis_setup(
    folder: Path | None = None,
    write_settings: bool = False,
    profile: str = "default",
    sources: int = 1,
    overwrite: bool = False,
    report: Report = silent,
) -> Setup:
    """Make the folder, and write QGIS's settings if asked to. Needs no root; a folder that is as it would be made is left as it is.

    Args:
        folder: where; default `default_folder()`.
        write_settings: put the two folders into the profile's QGIS3.ini (a backup is kept) and the model into the profile.
        profile: QGIS's profile.
        sources: sources of PatchesExtraction and TensorflowModelServe (OTB_TF_NSOURCES), 1 or more.
        overwrite: replace a folder made with other settings or by another version, and folders that QGIS has set for another OTB.
        report: told the progress.

    Raises:
        UsageError: the folder's path has characters that QGIS would hand to a shell, or `sources` is not positive.
        MissingToolError: OTB, our applications or otbQgisDescriptor are not installed.
        OutputError: the folder is something else or cannot be written, or QGIS is set up for another OTB (without `overwrite`).
        ProcessingError: an application has no description.

    """
    folder = Path(folder or default_folder()).expanduser().absolute()
    if not re.fullmatch(r"[A-Za-z0-9_./+-]+", str(folder)):
        raise UsageError(f"{folder}: QGIS gives this path to a shell unquoted; choose one of letters, digits and _ . / + - with --out")
    if sources < 1:
        raise UsageError(f"--sources is {sources}; expected 1 or more")
    if not re.fullmatch(r"\w[\w .-]*", profile):
        raise UsageError(f"--profile is '{profile}'; expected the name of a profile of QGIS, such as default")
    tools = Tools.found(sources)
    cached = make_folder(folder, tools, overwrite, report)
    applications, where = folder / "lib" / "otb" / "applications", settings.profile_folder(profile)
    plugin, remark = settings.provider_plugin(where)
    model = folder / "models" / MODEL
    file = backup = None
    if write_settings:
        model = copy_model(where / "processing" / "models" / MODEL, overwrite)
        file = where / "QGIS" / "QGIS3.ini"
        backup = settings.write_settings(file, settings.wanted(plugin, folder, applications), overwrite)
    return Setup(folder, applications, plugin, model, folder / "styles" / STYLE, cached, file, backup, remark)


@dataclass(frozen=True)
class Tools:
    """What the folder is made from."""

    launcher: Path
    descriptor: Path
    ours: tuple[Path, ...]
    theirs: tuple[Path, ...]
    descriptions: Path | None
    environment: dict[str, str]

    @staticmethod
    def found(sources: int) -> Tools:
        """Those of this installation; raises `MissingToolError`."""
        environment = otb.otb_environment()
        programs = {name: shutil.which(name, path=environment.get("PATH")) for name in (otb.LAUNCHER, DESCRIPTOR)}
        for name, package in ((otb.LAUNCHER, otb.APT), (DESCRIPTOR, "apt-get install otb-qgis")):
            if programs[name] is None:
                raise MissingToolError(f"{name} is not in PATH; install it: {package}")
        launcher, descriptor = (Path(str(programs[name])).resolve() for name in (otb.LAUNCHER, DESCRIPTOR))
        ours = tuple(sorted(otb.application_folder().glob("otbapp_*.so")))
        theirs: dict[str, Path] = {}
        for folder in otb.system_folders():
            for library in sorted(folder.glob("otbapp_*.so")):
                theirs.setdefault(library.name, library)
        for library in ours:
            theirs.pop(library.name, None)
        share = launcher.parents[1] / "share" / "otb" / "description"
        if sources > 1:
            environment["OTB_TF_NSOURCES"] = str(sources)
        else:
            environment.pop("OTB_TF_NSOURCES", None)
        return Tools(launcher, descriptor, ours, tuple(theirs.values()), share if (share / "algs.txt").is_file() else None, environment)

    def manifest(self) -> dict[str, Any]:
        """All that decides what is in the folder."""
        return {
            "format": 1,
            "otbsr": __version__,
            "launcher": self.script(),
            "descriptor": str(self.descriptor),
            "applications": {str(path): stamp(path)[1:] for path in (*self.ours, *self.theirs)},
            "descriptions": str(self.descriptions),
            "data": {name: (DATA / name).read_text(encoding="utf-8") for name in (MODEL, STYLE)},
        }

    def script(self) -> str:
        """The launcher: the environment that QGIS empties, and a line that QGIS shows as an error when the exit status is not 0."""
        names = (*PASSED_ON, "OTB_TF_NSOURCES", "TF_CPP_MIN_LOG_LEVEL")
        lines = [f"export {name}={shlex.quote(self.environment[name])}" for name in names if name in self.environment]
        profile = self.launcher.parents[1] / "otbenv.profile"  # OTB's own binary packages
        return "\n".join(
            [
                "#!/bin/sh",
                "# Written by `otbsr qgis-setup`: QGIS empties the environment and ignores the exit status.",
                f"export PATH={shlex.quote(str(self.launcher.parent))}:/usr/bin:/bin LANG=C.UTF-8",
                f'export HOME="${{HOME:-{Path.home()}}}"',
                *([f". {shlex.quote(str(profile))}"] if profile.is_file() else []),
                *lines,
                f'{shlex.quote(str(self.launcher))} "$@"',
                "status=$?",
                '[ "$status" -eq 0 ] || echo "ERROR: $1 ended with exit status $status"',
                'exit "$status"',
                "",
            ]
        )


def make_folder(folder: Path, tools: Tools, overwrite: bool, report: Report) -> bool:
    """Make the folder under another name and rename it; True when it was there already as it would be made."""
    manifest = json.loads(json.dumps(tools.manifest()))
    existing = read_manifest(folder)
    if existing == manifest and all(Path(path).is_file() for path in manifest["applications"]):
        return True
    if folder.exists() and (not folder.is_dir() or (existing is None and any(folder.iterdir()))):
        raise OutputError(f"{folder}: exists and was not made by `otbsr qgis-setup`; choose another folder with --out")
    if existing is not None and not overwrite:
        raise OutputError(f"{folder}: was made by another version or with other settings; add --overwrite to make it anew")
    with new_folder(folder, "check the folder's rights and the space left") as partial:
        fill(partial, tools, report)
        write_json(partial / MANIFEST, manifest)
    return False


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of ours, None where there is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def fill(folder: Path, tools: Tools, report: Report) -> None:
    """Launcher, links, descriptions, version, model, style."""
    programs, applications, descriptions = folder / "bin", folder / "lib" / "otb" / "applications", folder / "share" / "otb" / "description"
    for made in (programs, applications, descriptions, folder / "share" / "doc" / "otb", folder / "models", folder / "styles"):
        made.mkdir(parents=True)
    launcher = programs / otb.LAUNCHER
    launcher.write_text(tools.script())
    launcher.chmod(0o755)
    (programs / DESCRIPTOR).symlink_to(tools.descriptor)
    for library in (*tools.ours, *tools.theirs):
        (applications / library.name).symlink_to(library)
    shutil.copyfile(DATA / MODEL, folder / "models" / MODEL)
    shutil.copyfile(DATA / STYLE, folder / "styles" / STYLE)
    (folder / "share" / "doc" / "otb" / "VERSION").write_text(f"OTB Version: {version(launcher, tools)}\n")
    index = describe_theirs(descriptions, tools)
    for number, library in enumerate(tools.ours):
        report("descriptions", number / len(tools.ours))
        name = application_name(library)
        text = described(name, library.parent, descriptions, tools)
        if text is None:
            raise ProcessingError(f"{name}: {DESCRIPTOR} wrote no description; `otbsr doctor` checks whether the application loads")
        (descriptions / f"{name}.txt").write_text(mended(name, text))
        index[name] = f"{text.splitlines()[2]}|{name}"
    (descriptions / "algs.txt").write_text("".join(f"{line}\n" for line in index.values()))
    report("descriptions", 1.0)


def application_name(library: Path) -> str:
    """otbapp_SuperResolution.so -> SuperResolution."""
    return library.name.removeprefix("otbapp_").partition(".")[0]


def output(words: list[str], tools: Tools) -> str:
    """What a program prints; its exit status says nothing. Raises `ProcessingError` when it does not end."""
    try:
        done = subprocess.run(words, env=tools.environment, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProcessingError(f"{Path(words[0]).name} {words[1]} did not end within {error.timeout:g} s; try again when the machine is less busy") from error
    return done.stdout + done.stderr


def version(launcher: Path, tools: Tools) -> str:
    """OTB's version, which the provider shows; 'unknown' where it does not tell."""
    words = [str(launcher), application_name(tools.ours[0]), "-version"]
    match = re.search(r"version (\S+)", output(words, tools))
    return match.group(1) if match else "unknown"


def describe_theirs(folder: Path, tools: Tools) -> dict[str, str]:
    """Descriptions of OTB's own applications, those of the distribution where it has them; name -> line of the index."""
    index: dict[str, str] = {}
    known = {application_name(library): library for library in tools.theirs}
    if tools.descriptions is not None:
        for line in (tools.descriptions / "algs.txt").read_text().splitlines():
            name = line.partition("|")[2]
            if name in known and (tools.descriptions / f"{name}.txt").is_file():
                (folder / f"{name}.txt").write_text(mended_theirs((tools.descriptions / f"{name}.txt").read_text()))
                index[name] = line
        return index
    for name, library in known.items():
        text = described(name, library.parent, folder, tools)
        if text is not None:
            (folder / f"{name}.txt").write_text(mended_theirs(text))
            index[name] = f"{text.splitlines()[2]}|{name}"
    return index


def described(name: str, applications: Path, folder: Path, tools: Tools) -> str | None:
    """Have an application described into `folder`; None when nothing was written. The descriptor appends to an index, which is made anew."""
    words = [str(tools.descriptor), name, str(applications), f"{folder}/"]
    output(words, tools)
    file = folder / f"{name}.txt"
    return file.read_text() if file.is_file() and len(file.read_text().splitlines()) > 2 else None


def copy_model(to: Path, overwrite: bool) -> Path:
    """Copy the model for the graphical modeler into QGIS's profile, where its toolbox finds it."""
    source = DATA / MODEL
    if to.exists():
        if filecmp.cmp(source, to, shallow=False):
            return to
        if not overwrite:
            raise OutputError(f"{to}: exists and is not the model of this version; add --overwrite to replace it")
    with new_file(to, "check the profile's rights") as partial:
        shutil.copyfile(source, partial)
    return to
