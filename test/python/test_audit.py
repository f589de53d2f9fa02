"""`make audit`: a known vulnerability fails, and nothing else does, hangs included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "audit.py"
HOLE = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
SOUND, SKIPPED = {"name": "b", "version": "1", "vulns": []}, {"name": "c", "skip_reason": "Dependency not found"}


def audit(folder: Path, script: str, seconds: int = 20) -> subprocess.CompletedProcess[str]:
    """Run the tool with a program in place of pip-audit; OUT is the file that it is to write."""
    program = folder / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys, time\nOUT = sys.argv[sys.argv.index('--output') + 1]\n{script}\n")
    program.chmod(0o755)
    return subprocess.run([sys.executable, str(TOOL), "--program", str(program), "--seconds", str(seconds)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([HOLE, SOUND], 1, "audit: a 1: CVE-1; take 2"),
        ([SOUND], 0, "1 packages, no known vulnerability"),
        ([SOUND, SKIPPED], 0, "not looked up: c"),
        ([HOLE, SKIPPED], 1, "CVE-1"),
        ([SKIPPED], 0, "SKIPPED, the database of vulnerabilities cannot be reached (it knows none"),
    ],
)
def test_what_is_found(tmp_path: Path, found: list, status: int, words: str) -> None:
    run = audit(tmp_path, f"open(OUT, 'w').write({json.dumps(json.dumps({'dependencies': found}))}); sys.exit({status})")
    assert run.returncode == status and words in run.stdout and not run.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("time.sleep(60)", "no answer in 2 s"),
        ("print('ERROR: no route to host', file=sys.stderr); sys.exit(1)", "no route to host"),
        ("open(OUT, 'w').write('{'); sys.exit(1)", "ended with 1"),
    ],
)
def test_what_is_not_found(tmp_path: Path, script: str, words: str) -> None:
    run = audit(tmp_path, script, 2)
    assert run.returncode == 0 and "SKIPPED" in run.stdout and words in run.stdout and not run.stderr


def test_without_pip_audit() -> None:
    run = subprocess.run([sys.executable, str(TOOL), "--program", "/nonexistent/pip-audit"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "SKIPPED" in run.stdout and not run.stderr
