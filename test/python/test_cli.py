"""The command line: entry points, exit status and one-line messages."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import typer

from otbsr import shell
from otbsr.cli import app

ROOT = Path(__file__).parents[2]


def run(*words, **environment):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False)


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


def otbsr(*words, **environment):
    """The command as its entry point starts it: the completion goes by the program's name."""
    code = "import sys; sys.argv[0] = 'otbsr'; from otbsr.cli import main; main()"
    return run("-c", code, *map(str, words), **environment)


def command_names():
    """Every command and command of a group: its words."""
    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():
        found += [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
    return found


def help_of(words):
    """A command, and the examples that its help shows."""
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    text = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    return command, [part.strip() for part in re.split(r"(?:Example|Another[^:]*): ", text)[1:]]


def test_the_map_has_every_command_once():
    listed = [name for _, names in shell.MAP for name in names]
    assert len(set(listed)) == len(listed)
    assert set(typer.main.get_command(app).commands) <= set(listed)
    text = otbsr("--help").stdout
    places = [text.index(f"\n  {name} ") for name in ("simulate", "pairs", "train", "apply", "classify", "study")]
    assert places == sorted(places) and "Others" not in text


@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        (["otbsr", "st"], {"study"}, {"apply"}),
        (["otbsr", "products", "i"], {"info", "import"}, {"search"}),
        (["otbsr", "apply", "x.tif", "--mo"], {"--model"}, {"--out"}),
        (["otbsr", "apply", "x.tif", "--model", f"{ROOT}/models/f-"], {f"{ROOT}/models/f-light-x4"}, {f"{ROOT}/models/README.md"}),
        (["otbsr", "classify", "x.tif", "--learner", "k"], {"knn"}, {"rf"}),
        (["otbsr", "study", "a", "--arms", "native,bicubic-"], {"native,bicubic-context"}, {"native,native"}),
        (["otbsr", "quality", "a", "--scores", "op"], {"opensr"}, {"pixels"}),
    ],
)
def test_completions_of_bash(typed, offered, not_offered):
    done = otbsr(_OTBSR_COMPLETE="complete_bash", COMP_WORDS=" ".join(typed), COMP_CWORD=str(len(typed) - 1))
    found = set(done.stdout.split())
    assert done.returncode == 0 and offered <= found and not not_offered & found


def test_completions_of_zsh_and_fish():
    zsh = otbsr(_OTBSR_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="otbsr stu")
    assert "study" in zsh.stdout and zsh.returncode == 0
    fish = otbsr(_OTBSR_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS="otbsr stu", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert "study" in fish.stdout and fish.returncode == 0


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_shell_takes_its_script(name, tmp_path):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    script = tmp_path / f"otbsr.{name}"
    script.write_text(otbsr(_OTBSR_COMPLETE=f"source_{name}").stdout)
    assert "_OTBSR_COMPLETE" in script.read_text()
    done = subprocess.run([name, "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the files that the examples name."""
    import numpy as np
    import rasterio
    from world_folder import world

    folder, made = tmp_path_factory.mktemp("examples"), world()
    safe, spot = next(made.glob("*.SAFE")), made / "PROD_SPOT6_001"
    links = {"world": made, safe.name: safe, "S2A_MSIL2A_20230821.SAFE": safe, "PROD_SPOT6_001": spot, "training.gpkg": made / "polygons.gpkg"}
    links |= dict.fromkeys(("sr_2m5.tif", "spot_2m5.tif", "bicubic.tif", "f.tif", "p.tif"), made / "reference_2m5.tif")
    links |= {"sentinel2_10m.tif": made / "sentinel2_10m.tif", "models/f": ROOT / "models" / "bicubic-x4", "models/p": ROOT / "models" / "nearest-x4"}
    (folder / "models").mkdir()
    for name, target in links.items():
        (folder / name).symlink_to(target)
    savedmodel = folder / "sr4rs_sentinel2_bands4328_france2020_savedmodel"
    shutil.copytree(ROOT / "models" / "bicubic-x4", savedmodel)
    (savedmodel / "model.json").unlink()
    pixels = np.random.default_rng(1).integers(30, 200, (4, 600, 600)).astype(np.uint8)
    place = rasterio.Affine(1, 0, 300000, 0, -1, 4800000)
    with rasterio.open(folder / "naip.tif", "w", driver="GTiff", count=4, height=600, width=600, dtype="uint8", crs="EPSG:32631", transform=place) as file:
        file.write(pixels)
    return folder


# Shorter than what a reader wants: the last of two options counts.
SHORTER = {("simulate",): "--extent 480", ("import-model",): "--bands B4,B3,B2,B8 --method baseline", ("apply",): "--overwrite", ("quality",): "--overwrite"}
UNTRIED = {
    ("qgis-setup",): "writes into the user's QGIS; has tests of its own",
    ("view",): "serves until it is stopped; has tests of its own",
    ("products", "search"): "asks a catalogue in the network; tested with a local one in products/test_catalogue.py",
    ("products", "download"): "network; products/test_download.py",
    ("products", "import"): "needs an unpacked data set; products/test_datasets.py",
    ("train",): "minutes; methods/test_commands.py",
    ("study",): "minutes; evaluation/test_study.py",
    ("report",): "needs a study; evaluation/test_report.py",
    ("pairs",): "the example with products: pairs/test_chain.py",
}


def test_examples_can_be_copied():
    """Each in one line, also where it is longer than the window."""
    for words in (("pairs",), ("apply",), ("products", "search")):
        lines = otbsr(*words, "--help", COLUMNS="60").stdout.splitlines()
        assert {f"  {example}" for example in help_of(words)[1]} <= set(lines)


@pytest.mark.parametrize("words", command_names(), ids=" ".join)
def test_the_examples_of_the_help_run(words, prepared, serving):
    command, examples = help_of(words)
    assert examples, f"{words}: no example"
    for example in examples:
        assert example.startswith("otbsr " + " ".join(words)) or words == ("env",), example
        typed = shlex.split(example)[1 + len(words) :]
        if "--cluster" in example:
            command.make_context("apply", typed, resilient_parsing=False)  # serving/test_cluster.py
            continue
        if words in UNTRIED and "world/sentinel2_10m.tif" not in example:
            if words != ("report",):
                command.make_context(" ".join(words), typed, resilient_parsing=False)  # flags and values are right
            continue
        if words == ("env",):
            example = example.replace("&& otbcli_SuperResolution -help", '&& test -n "$OTB_APPLICATION_PATH"')
        line = f"{example} {SHORTER.get(words, '')}"
        code = "import sys; from otbsr.cli import main; main()"
        shims = prepared / "bin"
        shims.mkdir(exist_ok=True)
        (shims / "otbsr").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        (shims / "otbsr").chmod(0o755)
        environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-ec", line], cwd=prepared, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, (line, done.stdout[-800:], done.stderr[-800:])


def test_doctor_looks_at_the_machine_and_says_how_to_get_what_is_missing(tmp_path):
    text = otbsr("doctor").stdout
    for name in ("processor", "memory", "disk here", "Python", "packages", "OTB", "applications", "TensorFlow"):
        assert re.search(rf"^(ok  |FAIL|note) {name}: ", text, re.MULTILINE), name
    done = otbsr("doctor", PATH="/nonexistent", OTBSR_APPLICATIONS=str(tmp_path))
    assert done.returncode == 1 and "apt-get install otb-bin" in done.stdout and "pip install" in done.stdout and "Traceback" not in done.stderr
