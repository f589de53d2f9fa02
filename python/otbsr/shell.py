"""What the command line owes to whoever types it: a map of the commands, completions, and the name that was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from typer import Typer
from typer.core import TyperCommand, TyperGroup

MAP: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Before the first image", ("doctor", "env", "qgis-setup")),
    ("1. Images to learn from", ("simulate", "aerial", "products", "pairs")),
    ("2. Models", ("train", "blend", "baseline", "import-model")),
    ("3. Super-resolve, and look", ("apply", "quality", "view")),
    ("4. Does it help?", ("classify", "study", "report")),
)
"""The commands in the order of the road, by its stages; a command that is missing here is listed under "Others"."""


class Road(TyperGroup):
    """A group whose help lists the commands by the stages of the road; sub-groups are listed plainly."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section a stage."""
        left = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name)) and not command.hidden}
        width = formatter.width - 6 - max(map(len, left))
        for title, names in (*MAP, ("Others", tuple(left))):
            rows = [(name, command.get_short_help_str(width)) for name in names if (command := left.pop(name, None))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Shown(TyperCommand):
    """A command whose help shows each example in a line of its own, however long: a broken line cannot be copied into a shell."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what the example is of, and below it the line."""
        for example in (self.epilog or "").strip().split("\n\n"):
            title, _, line = example.partition(": ")
            formatter.write(f"\n{title}:\n  {line}\n" if line else "")


class Commands(Typer):
    """An app of commands whose examples can be copied."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As Typer's."""
        return super().command(name, **{"cls": Shown, **settings})


def choices(known: Callable[[], Iterable[str]], several: bool = False) -> Callable[[str], list[str]]:
    """A completion from the names that `known` gives; several: of the last word of a list with commas.

    The library is loaded when a completion is asked for, not when the command starts.
    """

    def complete(incomplete: str) -> list[str]:
        begin, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{begin}{comma}{name}" for name in known() if name.startswith(last) and name not in begin.split(",")]

    return complete


def folders_with(name: str) -> Callable[[str], list[str]]:
    """A completion of folders that hold a file `name`, such as model.json, and of the folders on the way to them."""

    def complete(incomplete: str) -> list[str]:
        begin, slash, last = incomplete.rpartition("/")
        start = Path(begin + slash or ".")
        try:
            inside = sorted(path for path in start.iterdir() if path.is_dir() and path.name.startswith(last) and (last or path.name[0] != "."))
        except OSError:
            return []
        return [f"{begin}{slash}{path.name}" + ("" if (path / name).is_file() else "/") for path in inside if (path / name).is_file() or has(path, name)]

    return complete


def has(folder: Path, name: str) -> bool:
    """Whether a folder has a folder with a file `name`."""
    try:
        return any((path / name).is_file() for path in folder.iterdir() if path.is_dir())
    except OSError:
        return False


def bands() -> Sequence[str]:
    """Names of Sentinel-2's bands."""
    from otbsr.world.materials import SENTINEL2_BANDS

    return list(SENTINEL2_BANDS)


def arms() -> Sequence[str]:
    """Names of the study's arms."""
    from otbsr.evaluation.arms import built_in

    return list(built_in(Path("f"), Path("p")))


def learners() -> Sequence[str]:
    """Names of OTB's learners."""
    from otbsr.evaluation.learners import LEARNERS

    return list(LEARNERS)


def scores() -> Sequence[str]:
    """Names of the groups of scores."""
    from otbsr.evaluation.streams import GROUPS, SETS

    return [*SETS, *GROUPS]
