"""Builds the documentation site into site/: `make docs`.

Pages are the repository's own Markdown, the notebook doc/tutorial.ipynb as it was executed, and a reference that is asked for anew each
time: of the OTB applications by their -help, of the commands by typer, of the Python package by its docstrings. Links that lead nowhere,
in the repository or in the site, end the build. Nothing is fetched: neither here nor by the pages.

Usage: tools/docs.py [--out site] [--work build-docs]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import typer.main
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md", "GLOSSARY.md": "glossary.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md",
    "models/README.md": "models.md",
}  # fmt: skip
"""Pages from outside doc/, by their place in the repository; those of doc/ keep their name."""
SECTIONS = {
    "How to": ["usage.md", "quality.md", "viewer.md", "models.md", "qgis.md", "python.md", "containers.md", "scale.md", "otbtf-compatibility.md"],
    "Explanation": ["geometry.md", "study.md", "bibliography.md"],
    "About": ["glossary.md", "decisions.md", "changelog.md", "contributing.md"],
}
"""What belongs where; a page of doc/ that is not listed is a how-to, and one that is not there is left out."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
BRACKETS = re.compile(r"(?<![\\!\]])\[(@?[\w+.-]+)\](?![(\[:])")
"""A word in brackets, which is no link: a citation, or a mark of how sure something is."""
CODE = re.compile(r"(^```.*?^```|^(?: {4}|\t).*?$|`[^`\n]+`)", re.M | re.S)
PARAMETER = re.compile(r"^(?:MISSING)?\s+-(\S+)\s+<([^>]+)>\s*(?:\[pixel\])?\s*(.*)$")


class SiteError(Exception):
    """Raised for what keeps the site from being built: a broken link, a missing program."""


# --- pages of the repository ---


def sources(root: Path = ROOT) -> dict[str, str]:
    """Place in the site by place in the repository, of all pages there are."""
    found = {one: page for one, page in PAGES.items() if (root / one).is_file()}
    found |= {f"doc/{path.name}": path.name for path in sorted((root / "doc").glob("*.md"))}
    found |= {f"doc/{path.name}": f"{path.stem}.md" for path in sorted((root / "doc").glob("*.ipynb"))}
    return found


def outside_code(text: str) -> Iterator[tuple[bool, str]]:
    """Parts of Markdown, each with whether it is code."""
    for number, part in enumerate(CODE.split(text)):
        yield number % 2 == 1, part


def relink(text: str, source: str, pages: dict[str, str], copied: set[str], root: Path = ROOT, made: Collection[str] = ()) -> str:
    """A page's Markdown with its links leading into the site; raises `SiteError` naming those that lead nowhere.

    source: the page's place in the repository. Files that are no pages are added to `copied` where a browser shows them, else their name
    is left as text. made: pictures of the page that are in the site already. Addresses elsewhere are only looked at: nothing is fetched.
    """
    home = PurePosixPath(source).parent
    broken: list[str] = []

    def one(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):
            if reason := malformed(target):
                broken.append(f"{target} ({reason})")
            return match[0]
        path, _, anchor = target.partition("#")
        if not path:
            return match[0]
        if path in made:
            return match[0]
        place = os.path.normpath(str(home / path))
        if place.startswith("..") or not (root / place).exists():
            broken.append(target)
            return match[0]
        if place in pages:
            return f"{mark}[{label}]({pages[place]}{'#' + anchor if anchor else ''})"
        if PurePosixPath(place).suffix in (".png", ".jpg", ".svg", ".bib", ".model3", ".qml", ".pdf"):
            copied.add(place)
            return f"{mark}[{label}]({place.removeprefix('doc/')})"
        return label if label.startswith("`") else f"{label} (`{place}`)"

    done = "".join(part if code else BRACKETS.sub(r"\\[\1\\]", LINK.sub(one, part)) for code, part in outside_code(text))
    if broken:
        raise SiteError(f"{source}: links that lead nowhere: {', '.join(broken)}")
    return done


def malformed(address: str) -> str:
    """What is wrong with an address elsewhere, by its form alone; '' when nothing is."""
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        return "" if "@" in parts.path else "no @"
    if parts.scheme not in ("http", "https"):
        return f"scheme {parts.scheme}"
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9.-]+\.[A-Za-z]{2,}", parts.hostname):
        return f"host {parts.hostname}"
    return ""


def notebook(path: Path, pictures: Path) -> str:
    """An executed notebook as Markdown: text, code, what it printed, and its pictures (written into `pictures`)."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    joined = lambda text: text if isinstance(text, str) else "".join(text)  # noqa: E731
    parts = []
    for number, cell in enumerate(cells):
        text = joined(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        if text:
            parts.append(f"```python\n{text}\n```")
        for place, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if kind := next((one for one in ("image/png", "image/jpeg") if one in data), ""):
                name = f"{path.stem}-{number}-{place}.{kind.removeprefix('image/')}"
                pictures.mkdir(parents=True, exist_ok=True)
                (pictures / name).write_bytes(base64.b64decode(joined(data[kind])))
                parts.append(f"![Output of the cell above](images/{name})")
            elif shown := joined(output.get("text", data.get("text/plain", ""))).strip():
                shown = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown)
                parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n"


# --- reference ---


def application_names(root: Path = ROOT) -> list[str]:
    """The applications that are built."""
    return (root / "app" / "CMakeLists.txt").read_text().partition("APPLICATIONS")[2].partition(")")[0].split()


def ask(name: str, *keys: str) -> str:
    """What an OTB application says of itself, or of some of its parameters."""
    from otbsr.errors import OtbsrError
    from otbsr.serving import otb

    try:
        environment = {**os.environ, **otb.otb_environment(), "OTB_LOGGER_LEVEL": "WARNING"}
    except OtbsrError as error:
        raise SiteError(f"the reference of the applications needs them: {error}") from error
    if not shutil.which(otb.LAUNCHER):
        raise SiteError(f"the reference of the applications needs OTB: {otb.LAUNCHER} is not there; call make install")
    done = subprocess.run([otb.LAUNCHER, name, "-help", *keys], env=environment, capture_output=True, text=True, timeout=120)
    text = done.stdout + done.stderr
    if not keys and "Parameters:" not in text:
        raise SiteError(f"{name} -help: {text.strip() or done.returncode}; call make install")
    return text


def parameters(text: str) -> list[tuple[str, str, str]]:
    """(key, type, label with default and choices) of each parameter in a -help."""
    lines = text.partition("Parameters:")[2].partition("\nUse -help")[0].splitlines()
    return [match.groups() for line in lines if (match := PARAMETER.match(line)) and match[1] not in ("help", "progress")]  # type: ignore[misc]


def details(text: str) -> dict[str, str]:
    """The explanation of each parameter, and of its choices, in an answer to -help KEY..."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        if match := PARAMETER.match(line):
            key = match[1]
            found[key] = []
        elif key and line.strip():
            found[key].append(line.strip().removesuffix(":").strip())
    return {key: "\n".join(lines) for key, lines in found.items()}


def application_page(name: str) -> str:
    """An application's page, from what it says of itself."""
    text = ask(name)
    listed = parameters(text)
    explained = details(ask(name, *(key for key, kind, _ in listed if kind != "group")))
    head, _, rest = text.partition("Parameters:")
    lines = head.strip().splitlines()[1:]
    tags = next((line for line in lines if line.startswith("Tags:")), "")
    about = "\n".join(line for line in lines if line != tags).strip()
    parts = [f"# {name}", escape(about, quote=False), "## Parameters"]
    for key, kind, label in listed:
        if kind == "group":
            parts.append(f"### {escape(label.strip(), quote=False)}")
            continue
        more = [one for one in explained.get(key, "").splitlines() if one]
        bullets = [f"    {'  ' * (one.startswith('- '))}{escape(one, quote=False)}" for one in more]
        entry = f"`-{key}` <small>{escape(kind)}</small>\n:   {escape(' '.join(label.split()), quote=False)}"
        parts.append(entry + ("\n\n" + "\n".join(bullets) if bullets else ""))
    for title in ("Examples", "Limitations", "See also", "Authors"):
        match = re.search(rf"^{title}: *\n(.*?)(?=\n\n[A-Z][A-Za-z ]+: *\n|\Z)", rest, re.M | re.S)
        said = match[1].strip() if match else ""
        if not said or said == "None":
            continue
        if title == "Examples":
            said = f"```\n{said}\n```"
        elif title == "See also":
            own = application_names()
            said = ", ".join(f"[{one}]({one}.md)" if one in own else one for one in re.split(r"[,\s]+", said) if one)
        else:
            said = escape(said, quote=False)
        parts.append(f"## {title}\n{said}")
    return "\n\n".join([*parts, f"<small>{tags}</small>" if tags else ""]) + "\n"


def commands() -> dict[str, Any]:
    """Every command by its words after `otbsr`."""
    from otbsr.cli import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, one in command.commands.items():
            if hasattr(one, "commands"):
                yield from walk(one, (*words, name))
            elif not one.hidden:
                yield " ".join((*words, name)), one

    return dict(walk(typer.main.get_command(app), ()))


def command_page(name: str, command: Any) -> str:
    """A command's page, from its own help."""
    context = command.make_context(f"otbsr {name}", [], resilient_parsing=True)
    text, _, example = (command.help or "").partition("Example:")
    text, example = " ".join([text.strip()]), example or (command.epilog or "").partition("Example:")[2]
    code = [re.sub(r"^(Another[^:]*|Example): *", "", line.strip()) for line in example.splitlines() if line.strip()]
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"# otbsr {name}", escape(text, quote=False), f"```\n{' '.join(usage.split())}\n```"]
    if code:
        parts += ["## Example", "```\n" + "\n".join(code) + "\n```"]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    if arguments:
        told = [(one.metavar or one.name.upper(), one.help or "") for one in arguments]
        parts += ["## Arguments", *(f"`{metavar}`\n:   {escape(text, quote=False)}" for metavar, text in told)]
    records = [one.get_help_record(context) for one in command.params if one.param_type_name == "option"]
    parts += ["## Options", *(f"`{record[0]}`\n:   {escape(record[1], quote=False) or '&nbsp;'}" for record in records if record)]
    return "\n\n".join(parts) + "\n"


def modules() -> dict[str, list[str]]:
    """Modules of the Python packages by the page that they are on."""
    found: dict[str, list[str]] = {}
    for base, package in ((ROOT / "python", "otbsr"), (ROOT / "python" / "otbtf", "otbtf")):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[-1] == "__main__":
                continue
            if parts[-1] == "__init__":
                parts = parts[:-1]
            page = "otbtf" if package == "otbtf" else parts[1] if len(parts) > 1 and (base / "otbsr" / parts[1]).is_dir() else "otbsr"
            found.setdefault(page, []).append(".".join(parts))
    return found


def write_reference(folder: Path) -> dict[str, list[str]]:
    """Write reference/ under `folder`; return its pages by section."""
    pages: dict[str, list[str]] = {"Applications": [], "Commands": [], "Python": []}

    def write(section: str, name: str, text: str) -> None:
        path = folder / "reference" / section.lower() / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pages[section].append(str(path.relative_to(folder)))

    for name in application_names():
        write("Applications", name, application_page(name))
    for name, command in commands().items():
        write("Commands", name.replace(" ", "-"), command_page(name, command))
    for page, names in modules().items():
        title = {"otbsr": "The package's root", "otbtf": "otbtf: OTBTF's Python interface"}.get(page, f"otbsr.{page}")
        write("Python", page, f"# {title}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n")
    return pages


# --- the site ---


def stage(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """Write all Markdown into `folder`; return the navigation as MkDocs wants it. Raises `SiteError`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages, copied, broken = sources(root), set(), []
    for source, page in pages.items():
        text = notebook(root / source, folder / "images") if source.endswith(".ipynb") else (root / source).read_text(encoding="utf-8")
        try:
            made = [f"images/{path.name}" for path in (folder / "images").glob(f"{Path(source).stem}-*")] if source.endswith(".ipynb") else []
            (folder / page).write_text(relink(text, source, pages, copied, root, made), encoding="utf-8")
        except SiteError as error:
            broken.append(str(error))
    if broken:
        raise SiteError("\n".join(broken))
    for place in copied:
        target = folder / place.removeprefix("doc/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / place, target)
    there = set(pages.values())
    listed = {one for names in SECTIONS.values() for one in names} | {"index.md", "tutorial.md", "faq.md"}
    sections = {**SECTIONS, "How to": [*SECTIONS["How to"], *sorted(there - listed)]}
    nav: list[Any] = [{"Start": "index.md"}]
    nav += [{"Tutorial": "tutorial.md"}] if "tutorial.md" in there else []
    nav += [{title: [one for one in names if one in there]} for title, names in sections.items() if title != "About"]
    nav += [{"Reference": [{section: names} for section, names in write_reference(folder).items()]}]
    nav += [{"Questions": "faq.md"}] if "faq.md" in there else []
    return {"nav": [*nav, {"About": [one for one in sections["About"] if one in there]}]}


def build(out: Path, work: Path) -> None:
    """Stage and build into `out`, which is replaced when all went well. Raises `SiteError`."""
    source = work / "source"
    settings = yaml.safe_load((ROOT / "doc" / "site" / "mkdocs.yml").read_text(encoding="utf-8")) | stage(source)
    for plugin in settings["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "python"), str(ROOT / "python" / "otbtf")]
    settings |= {"docs_dir": str(source.resolve()), "site_dir": str((work / "site").resolve())}
    (work / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "-f", str(work / "mkdocs.yml")],
        capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"},
    )  # fmt: skip
    if done.returncode != 0:
        told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("WARNING", "ERROR", "Aborted"))]
        raise SiteError("\n".join(told) or (done.stdout + done.stderr).strip())
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(work / "site", out)


def main() -> None:
    """Build the site, or say in a line why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    parser.add_argument("--work", type=Path, default=ROOT / "build-docs")
    given = parser.parse_args()
    try:
        build(given.out, given.work)
    except SiteError as error:
        print(f"docs: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{given.out / 'index.html'}")


if __name__ == "__main__":
    main()
