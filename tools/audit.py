"""Look up the pinned Python packages (constraints.txt) in the database of known vulnerabilities, by pip-audit.

Ends with 1 when one is found, else with 0: also where the database cannot be reached, which it says. Never runs longer than --seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def audit(requirements: Path, program: list[str], seconds: float) -> int:
    """Print what pip-audit finds; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        # --no-deps --disable-pip: the file lists everything, so that nothing is resolved or installed.
        words = ["--requirement", str(requirements), "--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10"]
        try:
            run = subprocess.run([*program, *words, "--format", "json", "--output", str(found)], capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return absent(f"no answer in {seconds:g} s")
        except OSError as error:
            return absent(f"{program[0]}: {error.strerror}")
        try:
            listed = json.loads(found.read_text(encoding="utf-8"))["dependencies"]
            hits = [(one["name"], one["version"], hole["id"], hole.get("fix_versions") or []) for one in listed for hole in one.get("vulns") or []]
            unknown = [one["name"] for one in listed if one.get("skip_reason")]
        except (OSError, ValueError, KeyError, TypeError):
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            return absent(lines[-1].strip()[:200] if lines else f"pip-audit ended with {run.returncode}")
    if len(unknown) == len(listed):  # what a mirror without the database answers
        return absent("it knows none of these packages")
    for name, version, hole, fixed in hits:
        print(f"audit: {name} {version}: {hole}; " + (f"take {' or '.join(fixed)}" if fixed else "there is no fixed version yet"))
    if unknown:
        print(f"audit: not looked up: {', '.join(unknown)}")
    if not hits:
        print(f"audit: {len(listed) - len(unknown)} packages, no known vulnerability")
    return 1 if hits else 0


def absent(why: str) -> int:
    """Say that nothing was looked up; that is no failure: tests must run without a network."""
    print(f"audit: SKIPPED, the database of vulnerabilities cannot be reached ({why})")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requirements", type=Path, default=Path(__file__).parent.parent / "constraints.txt")
    parser.add_argument("--program", nargs="+", default=[sys.executable, "-m", "pip_audit"], help="what starts pip-audit")
    parser.add_argument("--seconds", type=float, default=120.0, help="most time")
    options = parser.parse_args()
    sys.exit(audit(options.requirements, options.program, options.seconds))
