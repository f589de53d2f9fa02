"""The documentation's site: every application and command has its page, and no link leads nowhere."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    """tools/docs.py as a module."""
    given = importlib.util.spec_from_file_location("otbsr_docs", ROOT / "tools" / "docs.py")
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


docs = load()


class Links(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loads, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        if given.get("src"):
            self.loads.append(given["src"])
        if given.get("href"):
            (self.loads if tag == "link" and given.get("rel") != "canonical" else self.links).append(given["href"])


# --- parts ---


def test_links_are_led_into_the_site_and_broken_ones_are_named(tmp_path):
    (tmp_path / "doc/images").mkdir(parents=True)
    for name in ("README.md", "doc/a.md", "doc/images/x.png", "doc/lib.bib"):
        (tmp_path / name).write_text("")
    pages, copied = docs.sources(tmp_path), set()
    assert pages == {"README.md": "index.md", "doc/a.md": "a.md"}
    text = "[a](doc/a.md#part) ![x](doc/images/x.png) [b](doc/lib.bib) [s](#here) [f](doc) [w](https://example.org/x)\n\n    [code](no.md)\n`[c](no.md)`\n"
    done = docs.relink(text, "README.md", pages, copied, tmp_path)
    assert done.startswith("[a](a.md#part) ![x](images/x.png) [b](lib.bib) [s](#here) f (`doc`) [w](https://example.org/x)")
    assert "[code](no.md)" in done and "`[c](no.md)`" in done
    assert copied == {"doc/images/x.png", "doc/lib.bib"}
    for broken in ("no.md", "../../elsewhere.md", "doc/no.md#x", "https:/example.org", "http://localhost name", "ftp://example.org/x"):
        with pytest.raises(docs.SiteError, match="lead nowhere"):
            docs.relink(f"[x]({broken.replace(' ', '')})", "README.md", pages, set(), tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_notebook_is_shown_as_it_was_executed(tmp_path, kind):
    png = base64.b64encode(b"picture").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"output_type": "stream", "text": ["\x1b[1m1\x1b[0m\n"]}]},
        {"cell_type": "code", "source": "draw()", "outputs": [{"data": {f"image/{kind}": png, "text/plain": "<Figure>"}}]},
    ]
    (tmp_path / "t.ipynb").write_text(json.dumps({"cells": cells}))
    text = docs.notebook(tmp_path / "t.ipynb", tmp_path / "images")
    assert text.startswith("# Title\ntext\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\ndraw()\n```\n\n![")
    assert (tmp_path / "images" / re.search(r"images/(\S+)\)", text)[1]).read_bytes() == b"picture"
    assert "<Figure>" not in text


@pytest.mark.parametrize(
    ("text", "said"), [("# A\n[x](#none)\n", "#none"), ("# A\n[x](no.md)\n", "no.md"), ("# A\n[x](/abs.md)\n", "abs.md"), ("# A\n[x](#a)\n", "")]
)
def test_build_is_strict_about_links_and_anchors(tmp_path, text, said):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    settings = yaml.safe_load((ROOT / "doc/site/mkdocs.yml").read_text())
    (tmp_path / "source").mkdir()
    (tmp_path / "source/index.md").write_text(text)
    wanted = {"site_name", "validation", "markdown_extensions"}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({key: settings[key] for key in wanted} | {"docs_dir": "source", "theme": None, "plugins": []}))
    (tmp_path / "mkdocs.yml").write_text((tmp_path / "mkdocs.yml").read_text().replace("theme: null\n", ""))
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(tmp_path / "mkdocs.yml")], capture_output=True, text=True)
    assert (done.returncode != 0, said in done.stdout + done.stderr) == (bool(said), True)


# --- the whole ---


@pytest.fixture(scope="module")
def site(run_application, tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("docs")
    docs.build(folder / "site", folder / "work")
    return folder / "site"


def test_every_application_and_command_has_its_page_with_all_its_options(site):
    names = docs.application_names()
    assert {"SuperResolution", "TensorflowModelServe", "PatchesExtraction"} <= set(names)
    for name in names:
        page = (site / f"reference/applications/{name}.html").read_text()
        listed = [key for key, kind, _ in docs.parameters(docs.ask(name)) if kind != "group"]
        assert len(listed) >= 3, name
        assert [key for key in listed if f"<code>-{key}</code>" not in page] == [], name
        assert "Examples" in page
    commands = docs.commands()
    assert {"apply", "study", "products info", "view"} <= set(commands)
    for name, command in commands.items():
        page = (site / f"reference/commands/{name.replace(' ', '-')}.html").read_text()
        flags = [one.opts[0] for one in command.params if one.param_type_name == "option" and one.name != "help"]
        assert [flag for flag in flags if flag not in page] == [], name
        assert "Example" in page, name


def test_every_module_is_in_the_reference(site):
    for page, names in docs.modules().items():
        text = (site / f"reference/python/{page}.html").read_text()
        assert [name for name in names if f'id="{name}"' not in text] == []


def test_no_page_leads_nowhere_or_loads_anything_from_elsewhere(site):
    found = {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(found) > 30
    broken = []
    for path, page in found.items():
        assert [one for one in page.loads if urlsplit(one).netloc] == [], path
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.exists() or (parts.fragment and target in found and unquote(parts.fragment) not in found[target].places | {"__tabbed"}):
                broken.append((path.name, link))
    assert broken == []
    together = "".join(path.read_text(errors="replace") for path in site.rglob("*.css"))
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)", together) == []
