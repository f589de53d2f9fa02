"""One hierarchy of errors; the class fixes the exit status (sysexits.h), the message gives value, expectation, remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class OtbsrError(Exception):
    """Base of every error that a user can cause or mend; printed as one line, never as a traceback."""

    exit_code = 1


class UsageError(OtbsrError):
    """Raised when options contradict each other or have an impossible value."""

    exit_code = 2


class InputError(OtbsrError):
    """Raised when an input file is missing, unreadable, or not what it should be."""

    exit_code = 65


class GridError(InputError):
    """Raised when two pixel grids that must agree or nest do not, or when a grid is rotated or sheared."""


class ModelError(InputError):
    """Raised when a model folder is incomplete, its sidecar is invalid, or it does not fit the image."""


class MissingToolError(OtbsrError):
    """Raised when OTB, TensorFlow or another program that the command needs is not there."""

    exit_code = 69


class ProcessingError(OtbsrError):
    """Raised when an OTB application or a computation failed."""

    exit_code = 70


class OutputError(OtbsrError):
    """Raised when a product cannot be written, is incomplete, or would overwrite a user's file."""

    exit_code = 73


class StoppedError(OtbsrError):
    """Raised when a signal ended work that can go on from what it kept; the exit status is the shell's for that signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


def flaw(error: ValidationError, flags: bool = True) -> str:
    """The first fault that pydantic found as one line: the setting (as a flag), its value, what is wrong."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    text = first["msg"].removeprefix("Value error, ")
    if not flags:
        return f"{key} is {first['input']!r}: {text}"
    return f"--{key.replace('_', '-')} {first['input']}: {text[:1].lower()}{text[1:]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'rf'?)" when a known name is near `word`, case and zeros before digits aside; else ''.

    For the end of a message's first half. Short names (bands) differ by a letter and mean something else: they are offered for another spelling only.
    """

    def plain(name: str) -> str:
        return re.sub(r"(?<=[a-z])0+(?=\d)", "", str(name).lower())

    names = {plain(name): name for name in map(str, known)}
    found = get_close_matches(plain(word), names, 1, 0.7)
    found = [name for name in found if min(len(name), len(plain(word))) > 3 or name == plain(word)]
    return f" (did you mean '{names[found[0]]}'?)" if found else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or of what caused it when rasterio only refers to that."""
    cause = error.__cause__ or error
    return (str(cause) or str(error) or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """An error of TensorFlow's or Keras', which may be pages, as one line: without what it says of the graph's operations, 300 characters at most.

    Theirs put a heading first ("Graph execution error:") and break sentences, so that the first line alone would often say nothing.
    """
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return re.sub(r"\s+", " ", text).split(" [Op:")[0].split(" Detected at node")[0].strip()[:300]
