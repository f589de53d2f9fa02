"""Print the requirements of pyproject.toml (with the extras named), so that they can be installed before otbsr is compiled."""

import sys
from pathlib import Path

import tomllib

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
names = sys.argv[1:]
lines = list(project["dependencies"]) if names not in (["lint"], ["docs"]) else []
for name in names:
    lines += project["optional-dependencies"][name]
print("\n".join(lines))
