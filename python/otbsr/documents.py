"""Settings and lists that people write, as YAML or JSON: read without running anything, and refused where they would grow or nest without end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from otbsr.errors import InputError

LIMIT = 1 << 20
"""Bytes at most: thousands of scenes."""
NODES = 50_000
"""Values at most, those that aliases repeat counted each time."""
DEPTH = 50
"""Lists and mappings in one another at most."""


def read_document(path: Path, expected: str) -> Any:
    """The content of a YAML file, or of a .json file; None of an empty one. expected: what it should hold, for the message of the `InputError`."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ValueError(f"longer than {LIMIT >> 20} MiB")
        text = content.decode("utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=distinct)
        require_modest(text)
        # Aliases cost nothing until somebody copies or prints what they repeat: nine lines become a billion values.
        if (count := expanded(yaml.compose(text, yaml.SafeLoader), {})) > NODES:
            raise ValueError(f"{count} values, counting what aliases repeat")
        return yaml.safe_load(text)
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as {expected} (nested too deep); correct it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read as {expected} ({error.strerror}); check the path") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as {expected} ({' '.join(str(error).split())[:200]}); correct it") from error


def distinct(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping; raises `ValueError` when a key is there twice: the second value would silently hold."""
    content: dict[Any, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key} is there twice: delete one")
        content[key] = value
    return content


def require_modest(text: str) -> None:
    """Raise `ValueError` as soon as a YAML text turns out to have too many values or too deep ones."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError("nested too deep")
        if number > NODES:
            raise ValueError(f"more than {NODES} values")


def expanded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Number of values below a node, those under aliases as often as they are repeated; raises `ValueError` for one that holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        if isinstance(node, yaml.MappingNode):
            distinct([(key.value if isinstance(key, yaml.ScalarNode) else id(key), None) for key, _ in node.value])
        below = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(expanded(one, known) for one in below)
    elif not known[id(node)]:
        raise ValueError("an alias of what holds it")
    return known[id(node)]
