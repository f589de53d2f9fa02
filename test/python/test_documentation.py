"""What OTB's own documentation test asks of an application, of all of ours, and that no stray characters are in the texts.

`otbApplicationDocumentation`, built with the C++ tests, prints the texts as the applications give them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from otbsr.errors import MissingToolError
from otbsr.serving.otb import application_folder, otb_environment

ROOT = Path(__file__).parents[2]
NAMES = (ROOT / "app" / "CMakeLists.txt").read_text().partition("APPLICATIONS")[2].partition(")")[0].split()
STRAY = re.compile(r"  |^\s|\s$|[^\x20-\x7e]|\s[,;:)]|\s\.(?![\w.])|\(\s|(?<!\.)\.\.(?!\.)|,,|;;|\|")
"""Double or outer blanks, control characters or none of ASCII, blanks before punctuation, doubled punctuation, QGIS's separator."""


@pytest.fixture(scope="module")
def documentation():
    try:
        program = application_folder().parent / "bin" / "otbApplicationDocumentation"
    except MissingToolError as error:
        pytest.skip(str(error))
    if not program.is_file():
        pytest.skip(f"{program} is not built (-DBUILD_TESTING=ON)")
    environment = {**os.environ, **otb_environment()}
    done = subprocess.run([program, *NAMES], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.parametrize("name", NAMES)
def test_application_is_documented(documentation, name):
    about = documentation[name]
    assert about["name"] == about["exampleOf"] == name
    assert len(about["long"]) >= 30
    for part in ("description", "authors", "limitations", "see"):
        assert about[part], part
    assert "Learning" in about["tags"]
    assert re.fullmatch(r"[A-Z].*\.", about["description"])
    assert about["authors"] == "The otbsr developers"
    given = {key: value for key, value in about["example"].items() if value}
    assert given, "the example has no values"
    assert set(given) <= set(about["parameters"])


@pytest.mark.parametrize("name", NAMES)
def test_example_gives_what_is_mandatory(documentation, name):
    """Without it the example would be refused; parameters that have a value by default need none."""
    about = documentation[name]
    given = {key for key, value in about["example"].items() if value}
    wanted = {
        key
        for key, parameter in about["parameters"].items()
        if parameter["mandatory"] and not parameter["hasValue"] and not key.startswith(("strategy.", "classifier.", "source2."))
    }
    assert wanted <= given, wanted - given


@pytest.mark.parametrize("name", NAMES)
def test_texts_have_no_stray_characters(documentation, name):
    about = documentation[name]
    texts = {part: about[part] for part in ("description", "long", "authors", "limitations", "see")}
    inherited = re.compile(r"^(elev|sample|classifier)(\.|$)|^learning|^deep|^(out|model|imstat|nodatalabel|confmap|rand|ram|vd|valid|confmatout)$")
    for key, parameter in about["parameters"].items():
        if (inherited.search(key) and "DeepFeatures" in name) or key.startswith("elev"):
            continue  # OTB's own texts
        texts |= {f"{key}: name": parameter["name"], f"{key}: description": parameter["description"]}
    for where, text in texts.items():
        assert not STRAY.search(text), (where, text, STRAY.search(text))
        assert where.endswith("description") or text, where
        assert text.count("(") == text.count(")"), (where, text)
        assert text.count('"') % 2 == 0, (where, text)
