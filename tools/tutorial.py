"""Execute doc/tutorial.ipynb and write its outputs into it (`make tutorial`), or give them back to the test that checks them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "doc" / "tutorial.ipynb"


def execute() -> nbformat.NotebookNode:
    """The notebook with the outputs of this very run; raises `nbclient.exceptions.CellExecutionError` with the cell that failed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False).execute()
    return notebook


def main() -> None:
    """Execute, take out what names this machine, write."""
    notebook = execute()
    notebook.metadata.language_info = {"name": "python"}  # not this Python's version
    root = str(NOTEBOOK.parent.parent)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = output.text.replace(root, ".").replace(os.path.expanduser("~"), "~")
    partial = NOTEBOOK.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
