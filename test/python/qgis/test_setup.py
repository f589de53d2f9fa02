"""`otbsr qgis-setup` without QGIS: the folder, the descriptions, the settings file, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from desktop import built

from otbsr.errors import OutputError, UsageError
from otbsr.qgis import settings
from otbsr.qgis.descriptions import mended, mended_theirs
from otbsr.qgis.setup import qgis_setup
from otbsr.serving import otb

INI = "[General]\nversion=3.22\n\n[Processing]\nConfiguration\\RESULTS=a\\\\b\nConfiguration\\OTB_FOLDER=\n\n[zz]\nkey=@ByteArray(x=1)\n"
WANTED = {("Processing", "Configuration\\OTB_FOLDER"): "/new", ("PythonPlugins", "otbprovider"): "true"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_application):
    if shutil.which("otbQgisDescriptor") is None:
        pytest.skip("otbQgisDescriptor is not installed (apt-get install otb-qgis)")
    return qgis_setup(tmp_path_factory.mktemp("setup") / "qgis").folder


def lines_of(folder, name):
    return [line.split("|") for line in (folder / "share" / "otb" / "description" / f"{name}.txt").read_text().splitlines()[3:]]


def test_folder_has_all_applications_once(folder):
    linked = [path.name for path in (folder / "lib" / "otb" / "applications").iterdir()]
    index = [line.partition("|")[2] for line in (folder / "share" / "otb" / "description" / "algs.txt").read_text().splitlines()]
    assert {f"otbapp_{name}.so" for name in built()} <= set(linked)
    assert len(index) == len(set(index))
    assert set(built()) <= set(index)
    assert {f"otbapp_{name}.so" for name in index} <= set(linked)
    assert all((folder / "lib" / "otb" / "applications" / name).is_file() for name in linked)


def test_launcher_needs_no_environment(folder):
    """As QGIS starts it: by a shell, with nothing but LC_NUMERIC and the like."""
    command = f'"{folder}/bin/{otb.LAUNCHER}" SuperResolution {folder}/lib/otb/applications -in "/nowhere.tif" -model "/nowhere" -out "/tmp/o.tif"'
    done = subprocess.run(command, shell=True, env={"LC_NUMERIC": "C"}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "saved_model.pb" in done.stdout  # it came as far as the model
    assert "ERROR: SuperResolution ended with exit status 1" in done.stdout


def test_same_setup_is_kept_and_another_is_not_replaced(folder):
    before = (folder / "bin" / otb.LAUNCHER).stat().st_ino
    assert qgis_setup(folder).cached
    assert (folder / "bin" / otb.LAUNCHER).stat().st_ino == before
    with pytest.raises(OutputError, match="--overwrite"):
        qgis_setup(folder, sources=2)


def test_other_settings_with_overwrite(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "q", symlinks=True)
    made = qgis_setup(tmp_path / "q", sources=2, overwrite=True)
    assert not made.cached
    assert "source2.il" in [fields[1] for fields in lines_of(made.folder, "PatchesExtraction")]
    assert "export OTB_TF_NSOURCES=2" in (made.folder / "bin" / otb.LAUNCHER).read_text()


def test_command(tmp_path, run_application):
    """What it prints, twice: the second time nothing is left to do; and one line for an error."""
    if shutil.which("otbQgisDescriptor") is None:
        pytest.skip("otbQgisDescriptor is not installed")
    profile = tmp_path / "config" / "profiles" / "default"

    def command(*words):
        environment = {**os.environ, "QGIS_CUSTOM_CONFIG_PATH": str(tmp_path / "config")}
        return subprocess.run([sys.executable, "-m", "otbsr", "qgis-setup", *words], env=environment, capture_output=True, text=True, timeout=120, check=False)

    words = ("-o", str(tmp_path / "q"), "--write-settings", "--quiet")
    first, second = command(*words).stdout, command(*words).stdout
    assert f"OTB folder: {tmp_path}/q\n" in first
    assert f"OTB application folder: {tmp_path}/q/lib/otb/applications\n" in first
    assert ("cached: False" in first, "cached: True" in second, "backup" in first + second) == (True, True, False)
    assert f"Configuration\\OTB_FOLDER={tmp_path}/q\n" in (profile / "QGIS" / "QGIS3.ini").read_text()
    (profile / "processing" / "models" / "super_resolve_classify_compare.model3").write_text("mine")
    failed = command(*words)
    assert (failed.returncode, failed.stderr.count("\n")) == (73, 1)
    assert failed.stderr.startswith("otbsr: error: ")


def test_refuses(tmp_path, run_application):
    if shutil.which("otbQgisDescriptor") is None:
        pytest.skip("otbQgisDescriptor is not installed")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not made by"):
        qgis_setup(tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="shell"):
        qgis_setup(tmp_path / "with space")
    with pytest.raises(UsageError, match="sources"):
        qgis_setup(tmp_path / "q", sources=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_every_field_has_its_layer_and_every_number_its_unit(folder):
    unit = re.compile(r"pixel|number|seed|label|ratio|relative|0 to 1|MB|epoch|patches|threads|columns|rows", re.IGNORECASE)
    inherited = re.compile(r"^(elev|sample|classifier)\.|^nodatalabel$|^rand$")  # OTB's own parameters, with OTB's texts
    for name in built():
        lines = lines_of(folder, name)
        keys = {fields[1] for fields in lines}
        for fields in lines:
            if fields[0].endswith("Field"):
                assert fields[4] in keys, (name, fields)
            if (fields[0].endswith("Number") or fields[1].endswith("nodata")) and not inherited.search(fields[1]):
                assert unit.search(fields[2]), (name, fields)


def test_descriptions_are_mended():
    text = (
        "A|out\nDoes.\nLearning\n"
        "QgsProcessingParameterNumber|nodata|No-data|QgsProcessingParameterNumber.Double|0|True\n"
        "OTBParameterChoice|how|How|one;two|0|True\n"
        "QgsProcessingParameterRasterLayer|how.one.image|Image|None|False\n"
        "QgsProcessingParameterRasterLayer|howl.image|Image|None|False\n"
        "QgsProcessingParameterFileDestination|outvalid|Points|None|None|True\n"
    )
    assert mended("A", text).splitlines()[3:] == [
        "QgsProcessingParameterString|nodata|No-data|None|False|True",
        "OTBParameterChoice|how|How|one;two|0|True",
        "QgsProcessingParameterRasterLayer|how.one.image|Image|None|True",
        "QgsProcessingParameterRasterLayer|howl.image|Image|None|False",
        "QgsProcessingParameterVectorDestination|outvalid|Points|0|None|True|False",
    ]
    assert mended_theirs(text) == text.replace("how.one.image|Image|None|False", "how.one.image|Image|None|True")


def test_settings_change_the_lines_that_matter(tmp_path):
    file = tmp_path / "QGIS3.ini"
    file.write_text(INI)
    backup = settings.write_settings(file, WANTED)
    assert backup.read_text() == INI
    after = file.read_text()
    assert after == INI.replace("OTB_FOLDER=", "OTB_FOLDER=/new") + "\n[PythonPlugins]\notbprovider=true\n"
    assert settings.write_settings(file, WANTED) is None  # again: nothing to do, no second backup
    assert sorted(path.name for path in tmp_path.iterdir()) == ["QGIS3.ini", "QGIS3.ini.backup1"]


def test_settings_of_another_otb_are_not_replaced(tmp_path):
    file = tmp_path / "QGIS3.ini"
    text = INI.replace("OTB_FOLDER=", "OTB_FOLDER=/opt/OTB-9")
    file.write_text(text)
    with pytest.raises(OutputError, match="/opt/OTB-9"):
        settings.write_settings(file, WANTED)
    assert file.read_text() == text
    assert settings.write_settings(file, WANTED, overwrite=True).read_text() == text
    assert settings.value_of(file.read_text(), "Processing", "Configuration\\OTB_FOLDER") == "/new"


def test_settings_are_made_where_there_are_none(tmp_path):
    file = tmp_path / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    assert settings.write_settings(file, WANTED) is None
    assert file.read_text() == "[Processing]\nConfiguration\\OTB_FOLDER=/new\n\n[PythonPlugins]\notbprovider=true\n"


def test_the_separate_provider_is_used_where_it_is_installed_or_needed(tmp_path):
    """QGIS 3.36 and later bring no provider; where no QGIS is found nothing is asked for."""
    profile, program, plugins = tmp_path / "profile", tmp_path / "bin" / "qgis", tmp_path / "share" / "qgis" / "python" / "plugins"
    search = str(program.parent)
    assert settings.provider_plugin(profile, search) == ("otbprovider", None)
    (plugins / "processing").mkdir(parents=True)
    program.parent.mkdir()
    program.touch(0o755)
    name, remark = settings.provider_plugin(profile, search)
    assert name == "orfeoToolbox_provider" and remark is not None and "OrfeoToolbox provider" in remark
    (plugins / "otbprovider").mkdir()
    assert settings.provider_plugin(profile, search) == ("otbprovider", None)
    (profile / "python" / "plugins" / "orfeoToolbox_provider").mkdir(parents=True)
    assert settings.provider_plugin(profile, search) == ("orfeoToolbox_provider", None)
