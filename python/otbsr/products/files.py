"""A product's files: a folder, or a zip archive that is read in place; and its XML, parsed without entities.

Nothing of an archive is extracted: GDAL reads its images through /vsizip/, Python its metadata, and both by names that were checked.
"""

from __future__ import annotations

import math
import re
import stat
import zipfile
from itertools import islice
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from otbsr.errors import InputError
from otbsr.raster import opened

XML_LIMIT = 64 << 20
"""Bytes of metadata that are held in memory at most: the largest of a real product have two million."""
MEMBERS = 100_000
"""Files in an archive at most: a whole SAFE has about a hundred."""
TOTAL, UNSUSPECTED, RATIO = 1 << 37, 1 << 30, 100
"""Bytes in an archive at most, bytes up to which it may be packed as tightly as it likes, and how tightly a larger one may be: images do not shrink."""


class Files:
    """The files below a folder, or within a zip archive, by their path from there ("GRANULE/x/MTD_TL.xml")."""

    def __init__(self, root: Path) -> None:
        """List `root`; raises `InputError` for an archive that is damaged, encrypted or holds names that lead out of it."""
        self.root = root
        self.archive, self.packed = root if root.is_file() else None, False
        if self.archive:
            self.names, self.packed = archive_names(self.archive)
        else:
            found = list(islice((path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()), MEMBERS + 1))
            if len(found) > MEMBERS:
                raise InputError(f"{root}: holds more than {MEMBERS} files, expected one product's; give the product's own folder")
            self.names = sorted(found)

    def path(self, name: str) -> Path:
        """What GDAL and `read_bytes` open for a name."""
        return Path(f"/vsizip/{{{self.archive.resolve()}}}/{name}") if self.archive else self.root / name

    def matching(self, pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
        """(name, match) of the files whose last part matches, in order of names."""
        return [(name, match) for name in self.names if (match := pattern.match(PurePosixPath(name).name))]

    def xml(self, name: str) -> Element:
        """The root of an XML file; raises `InputError`."""
        return read_xml(self.path(name))


def archive_names(archive: Path) -> tuple[list[str], bool]:
    """(names of a zip archive's files in order, whether images in it are compressed once more); raises `InputError` for one that is not safe to use."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError) as error:
        raise InputError(f"{archive}: is no whole zip archive ({error}); fetch it again, or unpack it and give the folder") from error
    if len(members) > MEMBERS:
        raise InputError(f"{archive}: holds {len(members)} files, expected one product's; unpack the product that you want and give its folder")
    total, packed = sum(member.file_size for member in members), max(1, archive.stat().st_size)
    if total > TOTAL or (total > UNSUSPECTED and total > RATIO * packed):
        raise InputError(f"{archive}: holds {total / 1e9:.1f} GB in {packed / 1e9:.3f} GB, which no product does; do not use it, fetch it from its publisher")
    names: set[str] = set()
    for member in members:
        parts = PurePosixPath(member.filename).parts
        # GDAL would split "{" and "}", and a drive or backslash means another place on another system.
        if ".." in parts or member.filename.startswith("/") or re.search(r'[\\{}\0:"<>|]', member.filename):
            raise InputError(f"{archive}: holds the name {member.filename!r}, which leads out of the archive; do not use it, fetch it from its publisher")
        if member.filename in names:
            raise InputError(f"{archive}: holds {member.filename} twice; fetch it from its publisher")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive}: {member.filename} is a link; do not use it, fetch it from its publisher")
        if member.flag_bits & 1:
            raise InputError(f"{archive}: {member.filename} is encrypted; unpack it and give the folder")
        names.add(member.filename)
    images = [member for member in members if member.filename.lower().endswith((".jp2", ".tif"))]
    return sorted(names), any(member.compress_type != zipfile.ZIP_STORED for member in images)


def read_bytes(path: Path, limit: int = XML_LIMIT) -> bytes:
    """A file's content; raises `InputError` when it cannot be read or is longer than `limit` bytes."""
    try:
        with opened(path) as (stream, _):
            content = stream.read(limit + 1)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch the file again") from error
    if len(content) > limit:
        raise InputError(f"{path}: is longer than {limit >> 20} MiB, far more than such metadata have; fetch the file from its publisher")
    return content


def read_xml(path: Path) -> Element:
    """The root of an XML file without document type or entities, which could fill the memory or read other files; raises `InputError`."""
    try:
        root: Element = fromstring(read_bytes(path), forbid_dtd=True)
    except DefusedXmlException as error:
        raise InputError(f"{path}: metadata hold a document type or entities ({type(error).__name__}); do not use the file, fetch it again") from None
    except (ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: metadata cannot be read ({error}); fetch the file again") from error
    return root


def local(node: Element) -> str:
    """An element's tag without its namespace."""
    return str(node.tag).rsplit("}", 1)[-1]


def nodes(root: Element, *path: str) -> list[Element]:
    """The elements at the end of a path of tags, whatever their namespace and what lies between: ("Sun_Angles", "ZENITH_ANGLE")."""
    found = [root]
    for tag in path:
        found = [inner for node in found for inner in node.iter() if inner is not node and local(inner) == tag]
    return found


def text(root: Element, *path: str) -> str | None:
    """The text of the first element at the end of a path of tags, None without one."""
    found = nodes(root, *path)
    return (found[0].text or "").strip() or None if found else None


def number(root: Element, *path: str) -> float | None:
    """The finite number in the first element at the end of a path of tags, None where there is none."""
    return finite(text(root, *path))


def finite(words: str | None) -> float | None:
    """A finite number, None for other text."""
    try:
        value = float(words or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
