"""Compile the targets in test/fuzz with libFuzzer and the sanitizers, and run each for its share of the time.

A target is a file with `LLVMFuzzerTestOneInput`; the sources it needs are named in TARGETS: parsers build without OTB. The first inputs
are made from the committed models; what libFuzzer adds stays in the build folder and is used by the next run. An input that crashes a
target is kept in BUILD/crashes, and the command that runs it again is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRAPH = ["src/otbFrozenGraph.cxx", "src/otbWireMessage.cxx"]
MODEL = ["src/otbTensorflowModel.cxx", "src/otbTensorflowLibrary.cxx", *GRAPH]
TARGETS = {
    "sidecar": ["src/otbModelSidecar.cxx"],
    "signatures": MODEL,
    "graphs": GRAPH,
    "placeholders": ["src/otbTensorflowPlaceholder.cxx", *MODEL],
}
FLAGS = ["-std=c++17", "-O1", "-g1", "-fsanitize=fuzzer,address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-Iinclude"]


def varint(data: bytes, position: int) -> tuple[int, int]:
    """A protobuf varint and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value, shift, position = value | (byte & 127) << shift, shift + 7, position + 1
        if byte < 128:
            return value, position


def fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The length-delimited fields of a protobuf message: number, content, and the whole field."""
    position = 0
    while position < len(data):
        start = position
        tag, position = varint(data, position)
        if tag & 7 == 2:
            length, position = varint(data, position)
            position += length
            yield tag >> 3, data[position - length : position], data[start:position]
        elif tag & 7 == 0:
            _, position = varint(data, position)
        else:
            position += 8 if tag & 7 == 1 else 4


def strings(value: object) -> Iterator[str]:
    """All keys and texts of a JSON value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def write_seeds(folder: Path) -> None:
    """One input a model and target, and the words of the sidecars as libFuzzer's dictionary."""
    words: set[str] = set()
    for name in TARGETS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for model in sorted((ROOT / "models").glob("*/model.json")):
        text = model.read_text(encoding="utf-8")
        words |= {word for word in strings(json.loads(text)) if word.isascii() and 0 < len(word) < 20 and '"' not in word and "\\" not in word}
        (folder / "sidecar" / model.parent.name).write_text(text, encoding="utf-8")
        # SavedModel.meta_graphs = 2, whose field 2 is the graph, with debugging information (5)
        for number, graph, _ in fields((model.parent / "saved_model.pb").read_bytes()):
            if number == 2:
                small = b"".join(raw for key, _, raw in fields(graph) if key != 2 and len(raw) < 4000)
                (folder / "signatures" / model.parent.name).write_bytes(small)
                nodes = b"".join(raw for key, part, _ in fields(graph) if key == 2 for field, _, raw in fields(part) if field != 5)
                (folder / "graphs" / model.parent.name).write_bytes(nodes)
    for number, text in enumerate(["rate=1e-3", "n=(1, 2, 3)", "n=(4)", "train=TRUE", "flags=(true, false)", "big=-9223372036854775808", "x=1.5"]):
        for kind in (1, 3, 9, 10, 14, 19, 23):  # float32, int32, int64, bool, bfloat16, float16, uint64
            for shape in (b"\x00", b"\x01\xff", b"\xff", b"\x02\x01\x03"):
                (folder / "placeholders" / f"{number}_{kind}_{shape.hex()}").write_bytes(bytes([kind]) + shape + text.encode())
    (folder / "words.txt").write_text("".join(f'"{word}"\n' for word in sorted(words)))


def compile_target(name: str, program: Path, compiler: str) -> None:
    """Compile a target, unless the program is newer than all sources."""
    sources = [ROOT / "test" / "fuzz" / f"{name}.cxx", *(ROOT / source for source in TARGETS[name])]
    newest = max(file.stat().st_mtime for file in [*sources, *(ROOT / "include").iterdir(), Path(__file__)])
    if not program.exists() or program.stat().st_mtime < newest:
        subprocess.run([compiler, *FLAGS, *map(str, sources), "-ldl", "-o", str(program)], cwd=ROOT, check=True)


def main() -> int:
    """Returns 1 when a target crashed, ran out of memory, or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time of all targets together")
    parser.add_argument("--build", type=Path, default=Path("build-fuzz"))
    parser.add_argument("--compiler", default=os.environ.get("CLANGXX", "clang++"))
    options = parser.parse_args()
    build: Path = options.build.resolve()
    corpus, crashes = build / "corpus", build / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    write_seeds(corpus)
    failed = False
    for name in TARGETS:
        program = build / name
        compile_target(name, program, options.compiler)
        limits = [f"-max_total_time={max(1, options.seconds // len(TARGETS))}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=100000"]
        arguments = [*limits, "-print_final_stats=1", f"-artifact_prefix={crashes}/{name}-", f"-dict={corpus / 'words.txt'}", str(corpus / name)]
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            statistics = dict(line.removeprefix("stat::").split(":") for line in done.stderr.splitlines() if line.startswith("stat::"))
            runs, memory = (int(statistics.get(key, "0")) for key in ("number_of_executed_units", "peak_rss_mb"))
            print(f"{name}: {runs} inputs, nothing found (peak {memory} MB)")
        else:
            failed = True
            print("\n".join(line for line in done.stderr.splitlines() if not line.startswith(("#", "INFO:", "\tNEW_FUNC", "Dictionary:")))[:8000])
            print(f"{name}: see above; the input is in {crashes}, run it again with: {program} FILE", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
