"""How long work tells where it is: a callable that takes a step's name and its finished share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float], None]
"""Called as ``report(step, share)``; ``share`` grows from 0 to 1 within a step. What follows a colon in the step's name may change."""


def silent(step: str, share: float) -> None:
    """A `Report` that prints nothing."""


def part(report: Report, step: str, begin: float, end: float) -> Report:
    """A `Report` that maps any sub-step's share 0..1 to begin..end of `step`."""
    return lambda _name, share: report(step, begin + (end - begin) * share)


@contextmanager
def bars(quiet: bool = False, as_json: bool = False) -> Iterator[Report]:
    """Yield a `Report` that draws one bar a step on stderr, with the time left; JSON lines with `as_json`."""
    if quiet:
        yield silent
        return
    if as_json:
        last: dict[str, int] = {}

        def report_json(step: str, share: float) -> None:
            percent = int(100 * share)
            if last.get(step) != percent:
                last[step] = percent
                print(json.dumps({"step": step, "percent": percent}), file=sys.stderr, flush=True)

        yield report_json
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    display = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def report(step: str, share: float) -> None:
        name = step.partition(":")[0]
        if name not in tasks:
            display.start()  # not before: a command that fails at once prints its message only
            tasks[name] = display.add_task(step, total=1.0)
        display.update(tasks[name], description=step, completed=min(1.0, share))

    try:
        yield report
    finally:
        if tasks:
            display.stop()
