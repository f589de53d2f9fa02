"""The command line: entry points, exit status and one-line messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]


def run(*words, **environment):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False)


def test_every_command_has_an_example():
    text = run("-m", "otbsr", "--help").stdout
    commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip() and line.startswith("  ") and line[2] != " "]
    assert {"simulate", "pairs", "train", "apply", "quality", "study", "report", "env", "doctor"} <= set(commands)
    code = "import sys; from otbsr.cli import app\nfor c in sys.argv[1:]:\n  try: app([c, '--help'])\n  except SystemExit: pass"
    helps = run("-c", code, *commands).stdout
    assert helps.count("Example:") == len(commands)


def test_errors_are_one_line_with_their_status(tmp_path):
    done = run("-m", "otbsr", "apply", str(tmp_path / "absent"), "--model", str(ROOT / "models" / "bicubic-x4"), "-o", str(tmp_path / "o.tif"))
    assert done.returncode == 65
    assert done.stderr.startswith("otbsr: error: ")
    assert done.stderr.count("\n") == 1
    assert "absent" in done.stderr


def test_otbcli_commands_become_otbs_launcher():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    names = [name for name in scripts if name.startswith("otbcli_")]
    built = (ROOT / "app" / "CMakeLists.txt").read_text().partition("APPLICATIONS")[2].partition(")")[0].split()
    assert sorted(names) == sorted(f"otbcli_{name}" for name in built)
    for name in names[:2]:
        done = run("-c", f"import sys; sys.argv = ['/bin/{name}', '-help']; from otbsr.serving.otb import otbcli; otbcli()")
        if done.returncode == 69:
            pytest.skip(done.stderr)
        assert f"This is the {name.removeprefix('otbcli_')} application" in done.stdout + done.stderr
        assert "Parameters:" in done.stdout + done.stderr
