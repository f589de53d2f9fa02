"""Memory of a process and of all that it started."""

from __future__ import annotations

import re
from pathlib import Path

import psutil


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; none when it is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def shared_megabytes(pid: int) -> float:
    """Memory of a process and its descendants now, each page divided among those that share it."""
    total = 0
    for process in family(pid):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total / 2**20


def most_megabytes(process: psutil.Process) -> int:
    """The most memory that a process held since it became the program that it is; 0 when it has ended. psutil does not tell this."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) >> 10 if found else 0
