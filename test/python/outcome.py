"""What is expected of an application that has run."""

from __future__ import annotations

import subprocess


def succeed(process: subprocess.CompletedProcess[str]) -> str:
    """All that it said; fails unless it ended well."""
    assert process.returncode == 0 and "(FATAL)" not in process.stdout, process.stdout + process.stderr
    return process.stdout + process.stderr


def refuse(process: subprocess.CompletedProcess[str], *words: str) -> str:
    """Its one line of error; fails unless it ended with an exit status that is neither 0 nor a signal and the line has these words."""
    log = process.stdout + process.stderr
    assert 0 < process.returncode < 128, log
    lines = [line for line in log.splitlines() if "(FATAL)" in line or line.startswith("ERROR")]
    assert len(lines) == 1 and "Traceback" not in log and "terminate called" not in log, log
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]
