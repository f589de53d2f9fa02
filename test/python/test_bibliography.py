"""doc/bibliography.md and doc/bibliography.bib: every citation has its entry, every entry is cited, and no mark claims more than was read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parents[2] / "doc"
TEXT = (DOC / "bibliography.md").read_text(encoding="utf-8")
BIBLIOGRAPHY = (DOC / "bibliography.bib").read_text(encoding="utf-8")

CITATION = re.compile(r"\[@([a-z0-9]+)\](?!:)")
DEFINITION = re.compile(r"^\[@([a-z0-9]+)\]: (\S+)$", re.MULTILINE)
MARK = re.compile(r"\[(src|abs|rec|iss|mem)\]")
MAY_SAY = {
    "source": {"src", "abs", "rec", "mem"},
    "abstract": {"abs", "rec", "mem"},
    "record": {"rec", "mem"},
    "issue": {"iss", "mem"},
    "memory": {"mem"},
}


def parse(text: str) -> dict[str, dict[str, str]]:
    """Entries of a BibTeX file whose values are all in braces: {key: {field: value}}, the entry's kind under "kind".

    Raises ValueError for anything else, a key or field twice, and braces that do not match.
    """
    text = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    entries: dict[str, dict[str, str]] = {}
    start, field = re.compile(r"\s*@(\w+)\{([\w-]+),"), re.compile(r"\s*(\w+)\s*=\s*\{")
    at = 0
    while text[at:].strip():
        head = start.match(text, at)
        if head is None or head[2] in entries:
            raise ValueError(f"no new entry at {text[at : at + 60]!r}")
        entry = entries[head[2]] = {"kind": head[1].lower()}
        at = head.end()
        while (name := field.match(text, at)) is not None:
            depth, end = 1, name.end()
            while depth:
                if end == len(text):
                    raise ValueError(f"{head[2]}: braces of {name[1]} do not match")
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            if name[1] in entry:
                raise ValueError(f"{head[2]}: {name[1]} twice")
            entry[name[1]] = text[name.end() : end - 1]
            comma = re.compile(r"\s*,").match(text, end)
            at = comma.end() if comma else end
        close = re.compile(r"\s*\}").match(text, at)
        if close is None:
            raise ValueError(f"{head[2]}: no end at {text[at : at + 60]!r}")
        at = close.end()
    return entries


ENTRIES = parse(BIBLIOGRAPHY)


def address(entry: dict[str, str]) -> str | None:
    """Where a reader finds the work."""
    if "doi" in entry:
        return f"https://doi.org/{entry['doi']}"
    return f"https://arxiv.org/abs/{entry['eprint']}" if "eprint" in entry else entry.get("url")


def overclaims(text: str) -> list[str]:
    """Citations that are followed by a mark, or whose table row ends with one, that their entry's evidence does not cover."""
    found = [(key, mark) for key, mark in re.findall(r"\[@([a-z0-9]+)\] \[(src|abs|rec|iss|mem)\]", text)]
    for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        cells = row.split("|")
        key, mark = CITATION.search(cells[0]), MARK.search(cells[-1])
        if key and mark:
            found.append((key[1], mark[1]))
    return [f"{key} [{mark}]" for key, mark in found if mark not in MAY_SAY[ENTRIES[key]["evidence"]]]


def test_citations_and_entries_are_the_same() -> None:
    cited = set(CITATION.findall(TEXT))
    assert len(cited) > 50
    assert cited == set(ENTRIES)


def test_links_are_those_of_the_entries() -> None:
    assert dict(DEFINITION.findall(TEXT)) == {key: address(entry) for key, entry in ENTRIES.items() if address(entry)}


@pytest.mark.parametrize("key", ENTRIES)
def test_entry_is_complete(key: str) -> None:
    entry = ENTRIES[key]
    assert all(value.strip() for value in entry.values())
    assert entry["title"]
    assert "author" in entry or "organization" in entry
    assert re.fullmatch(r"\d{4}|n\.d\.", entry["year"])
    assert entry["evidence"] in MAY_SAY
    # what is missing is said, not passed over
    assert re.fullmatch(r"\d{4}", entry["year"]) or "year" in entry["note"] or "yearly" in entry["note"]
    assert not entry["title"].startswith("[") or "title" in entry["note"]
    assert entry["kind"] != "article" or "journal" in entry or "journal" in entry["note"]


def test_no_mark_claims_more_than_was_read() -> None:
    assert overclaims(TEXT) == []
    assert overclaims("so [@blau2018] [src] says") == ["blau2018 [src]"]
    assert overclaims("| A [@keys1981] | 1 | [abs] |") == ["keys1981 [abs]"]


def test_headings_of_the_contents_exist() -> None:
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]*)\)", TEXT)
    assert len(links) > 10
    assert set(links) <= anchors


@pytest.mark.parametrize(
    "broken",
    [
        "@misc{a, title = {x}",
        "@misc{a, title = {x}, title = {y}}",
        "@misc{a, title = {x}} @misc{a, title = {y}}",
        "@misc{a, title = {x}} words",
        '@misc{a, title = "x"}',
        "@misc{a, title = {x{}",
    ],
)
def test_parser_refuses(broken: str) -> None:
    with pytest.raises(ValueError):
        parse(broken)


def test_parser_keeps_nested_braces_and_drops_comments() -> None:
    assert parse("% c\n@Misc{a1,\n  title = {A {B} c},\n  year = {2024},\n}\n") == {"a1": {"kind": "misc", "title": "A {B} c", "year": "2024"}}
