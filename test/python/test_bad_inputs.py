"""No command prints a traceback: whatever it is given that is wrong, it ends with a status that is not 0 and one message."""

import re
import shutil
from pathlib import Path

import pytest
from world_folder import world

from otbsr.cli import app, main

MODEL = str(Path(__file__).parents[2] / "models" / "bicubic-x4")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Good files and bad ones, by name."""
    folder = tmp_path_factory.mktemp("bad")
    made = world()
    names = {"good": made / "sentinel2_10m.tif", "fine": made / "reference_2m5.tif", "world": made, "polygons": made / "polygons.gpkg", "model": MODEL}
    whole = names["good"].read_bytes()
    for name, content in {"cut.tif": whole[: len(whole) // 2], "text.tif": b"no image\n", "empty.tif": b"", "binary.tif": bytes(range(256)) * 40}.items():
        (folder / name).write_bytes(content)
        names[name] = folder / name
    (folder / "folder").mkdir()
    shutil.copy(names["good"], folder / "file.tif")
    return {**names, "missing": folder / "missing.tif", "folder": folder / "folder", "file": folder / "file.tif"}


def refused(capfd, tmp_path, there, line):
    """Run a line of `{names}`; returns the only message."""
    words = [word.format(**there, o=tmp_path / "o", **{"o_tif": tmp_path / "o.tif"}) for word in line.split()]
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(lambda: app(words, prog_name="otbsr"))
    out, err = capfd.readouterr()
    assert ended.value.code not in (0, None), line
    assert "Traceback" not in out + err, err
    messages = [text for text in err.splitlines() if text.startswith(("otbsr: error: ", "Error: "))]
    assert len(messages) == 1, (line, err)
    assert err.rstrip().splitlines()[-1] == messages[0] or "Usage:" in err, err
    assert not (tmp_path / "o.tif").exists()
    return messages[0]


FILES = """
aerial BAD -o {o}
pairs BAD {fine} -o {o}
pairs {good} BAD -o {o}
pairs {good} {fine} -o {o} --align --labels BAD
products info BAD
products search BAD --catalogue http://127.0.0.1:9/
products import worldstrat BAD -o {o}
train BAD -o {o}
import-model BAD -o {o}
blend BAD {model} --share 0.5 -o {o}
blend {model} BAD --share 0.5 -o {o}
apply BAD --model {model} -o {o_tif}
apply {good} --model BAD -o {o_tif}
apply {good} --model {model} --against BAD -o {o_tif}
apply BAD --model {model} -o {o_tif} --dry-run
quality BAD --reference {fine}
quality {fine} --reference BAD
quality {fine} --input BAD
quality {fine} --reference {fine} --mask BAD
quality --scenes BAD
quality {fine} --reference {fine} --perceptual BAD
study BAD --model {model} --out {o}
study {world} --model BAD --out {o}
study {world} --settings BAD --out {o}
classify BAD --polygons {polygons} --out {o_tif}
classify {fine} --polygons BAD --out {o_tif}
classify {fine} --polygons BAD --out {o_tif} --dry-run
report BAD
""".strip().splitlines()


@pytest.mark.parametrize("bad", ["missing", "folder", "cut.tif", "text.tif", "empty.tif", "binary.tif"])
@pytest.mark.parametrize("line", FILES)
def test_files_that_are_none(capfd, tmp_path, there, line, bad):
    if (line == "products info BAD" and bad == "cut.tif") or ("--settings" in line and bad == "empty.tif"):
        return  # the first reads no pixels; the second asks for no setting
    message = refused(capfd, tmp_path, there, line.replace("BAD", str(there[bad])))
    assert str(there[bad].name) in message or "127.0.0.1" in message or bad in message, message


VALUES = """
simulate {o} --extent -5
simulate {o} --extent nan
simulate {o} --urban nan
simulate {o} --urban 7
simulate {o} --gain nan
simulate {o} --bias inf
simulate {o} --noise -1
simulate {o} --shift nan nan
simulate {o} --cloud-cover 2
simulate {o} --day -3
simulate {o} --factor -1
simulate {o} --bands B99
simulate {o} --products sefa
aerial {good} -o {o} --factor -2
aerial {good} -o {o} --zoom nan
aerial {good} -o {o} --noise -1
aerial {good} -o {o} --scale x
aerial {good} -o {o} --scale nan
aerial {good} -o {o} --offset nan nan
pairs {good} {fine} -o {o} --patch -2
pairs {good} {fine} -o {o} --step 0
pairs {good} {fine} -o {o} --block -1
pairs {good} {fine} -o {o} --buffer -1
pairs {good} {fine} -o {o} --valid nan
pairs {good} {fine} -o {o} --valid 2
pairs {good} {fine} -o {o} --align --masked nan
pairs {good} {fine} -o {o} --align --bands B99
pairs {good} {fine} -o {o} --align --method pca
products search {good} --catalogue notanaddress
products search {good} --catalogue http://127.0.0.1:9/ --date yesterday
products search {good} --catalogue http://127.0.0.1:9/ --days nan
products download nosuchset -o {o}
products import nosuchset {world} -o {o}
train {world} -o {o} --minutes nan
train {world} -o {o} --threads 0
blend {model} {model} --share nan -o {o}
blend {model} {model} --share -1 -o {o}
baseline cubic -o {o}
baseline bicubic -o {o} --factor -1
baseline bicubic -o {o} --factor nan
baseline bicubic -o {o} --spacing nan
baseline bicubic -o {o} --spacing -10
baseline bicubic -o {o} --bands ,
import-model {model} -o {o} --scale nan
import-model {model} -o {o} --scale -1
import-model {model} -o {o} --factor 0
import-model {model} -o {o} --spacing nan
import-model {model} -o {o} --method best
import-model {model} -o {o} --dtype int7
apply {good} --model {model} -o {o_tif} --scale nan
apply {good} --model {model} -o {o_tif} --scale -1
apply {good} --model {model} -o {o_tif} --threads 0
apply {good} --model {model} -o {o_tif} --ram -5
apply {good} --model {model} -o {o_tif} --window 513
apply {good} --model {model} -o {o_tif} --bands B4,B3
apply {good} --model {model} -o {o_tif} --bands B4,B3,B2,B99
apply {good} --model {model} -o {o_tif} --surface FER
apply {good} --model {model}-absent -o {o_tif}
apply {good} --model {model} -o {world}
apply {good} --model {model} -o {o}.jpg
quality {fine} --reference {fine} --border -1
quality {fine} --reference {fine} --border 9999
quality {fine} --reference {fine} --scale nan
quality {fine} --reference {fine} --scale -1
quality {fine} --reference {fine} --scores opnser
quality {fine} --reference {fine} --scores perceptual
quality {fine} --reference {fine} --white 0.3
quality {fine} --reference {fine} --perceptual {o} --white 0
quality
study {world} --model {model} --out {o} --folds 0
study {world} --model {model} --out {o} --block nan
study {world} --model {model} --out {o} --block -1
study {world} --model {model} --out {o} --buffer -1
study {world} --model {model} --out {o} --arms natve
study {world} --model {model} --out {o} --learners fr
study {world} --out {o} --arms f
classify {fine} --polygons {polygons} --out {o_tif} --samples -1
classify {fine} --polygons {polygons} --out {o_tif} --smooth 99
classify {fine} --polygons {polygons} --out {o_tif} --field clas
classify {fine} --polygons {polygons} --out {o_tif} --learner fr
classify {fine} --polygons {polygons} --out {o_tif} --learner boost
aply {good}
apply {good} --modle {model} -o {o_tif}
""".strip().splitlines()


@pytest.mark.parametrize("line", VALUES)
def test_values_that_cannot_be(capfd, tmp_path, there, line):
    refused(capfd, tmp_path, there, line)


UNWRITABLE = """
simulate OUT --extent 480
aerial {fine} -o OUT
pairs {good} {fine} -o OUT
products import worldstrat {world} -o OUT
products download http://127.0.0.1:9/x -o OUT
blend {model} {model} --share 0.5 -o OUT
baseline bicubic -o OUT
import-model {model} -o OUT
apply {good} --model {model} -o OUT.tif
quality {fine} --reference {fine} --scores pixels --html OUT.html
quality {fine} --reference {fine} --scores pixels --maps OUT
study {world} --model {model} --out OUT
classify {fine} --polygons {polygons} --out OUT.tif
""".strip().splitlines()


@pytest.mark.parametrize("out", ["{file}/within", "/proc/otbsr/within"])
@pytest.mark.parametrize("line", UNWRITABLE)
def test_outputs_that_cannot_be_written(capfd, tmp_path, there, line, out):
    refused(capfd, tmp_path, there, line.replace("OUT", out))


FILLED = """
simulate DISK/world --extent 480
aerial {fine} -o DISK/o
classify {fine} --polygons {polygons} --samples 20 --out DISK/o.tif
apply {good} --model {model} -o DISK/o.tif
pairs {good} {fine} -o DISK/o
pairs {good} {fine} -o DISK/o --align
blend {model} {model} --share 0.5 -o DISK/o
baseline bicubic -o DISK/o
quality {fine} --reference {fine} --scores pixels --html DISK/o.html
quality {fine} --reference {fine} --scores pixels --maps DISK/o
study {world} --model {model} --out DISK/o --folds 2 --repeats 1
""".strip().splitlines()


@pytest.mark.parametrize("line", FILLED)
def test_a_disk_that_is_full(capfd, tmp_path, there, mount_disk, line):
    message = refused(capfd, tmp_path, there, line.replace("DISK", str(mount_disk("4k"))))
    assert re.search("space|cannot be written", message), message


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("aply {good}", "apply"),
        ("apply {good} --modle {model} -o {o_tif}", "--model"),
        ("apply {good} --model {model}4 -o {o_tif}", "bicubic-x4'"),
        ("apply {world}/sentinel2_10m.tif --model {model} --bands B4,B3,B2,B08A -o {o_tif}", "B8"),
        ("simulate {o} --bands B8a", "'B8A'"),
        ("baseline bicubc -o {o}", "'bicubic'"),
        ("classify {fine} --polygons {polygons} --out {o_tif} --learner libsmv", "'libsvm'"),
        ("classify {fine} --polygons {polygons} --out {o_tif} --field Class", "'class'"),
        ("study {world} --model {model} --out {o} --arms bicubic-contxt", "'bicubic-context'"),
        ("study {world} --model {model} --out {o} --learners libsmv", "'libsvm'"),
        ("quality {fine} --reference {fine} --scores spectr", "'spectra'"),
        ("products import wordstrat {world} -o {o}", "'worldstrat'"),
    ],
)
def test_the_name_that_was_meant(capfd, tmp_path, there, line, meant):
    assert meant in refused(capfd, tmp_path, there, line).lower() or meant in refused(capfd, tmp_path, there, line)
