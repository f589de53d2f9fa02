"""The table of doc/scale.md from its constants: seconds and euros for a tile, France and the land, on processors and on a GPU.

python tools/scale.py                                   print the table
python tools/scale.py --core-seconds 12 --core-euro 0.02    with your own measurements and prices
python tools/scale.py --write                           put it into doc/scale.md, between its marks
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "doc" / "scale.md"
BEGIN, END = "<!-- tools/scale.py -->", "<!-- end -->"
FACTOR, BANDS, BYTES = 4, 4, 2
PLACES = {"a tile": 1.0, "France": 100.0}
LAND = 134.9e6 / 1e4 * 1.3
"""Tiles of the land without Antarctica: 134.9 million km2 in squares of 100 km, and 30 % more (assumed) for coasts and where UTM zones meet."""


@dataclass(frozen=True)
class Constants:
    """Measured constants and prices; doc/scale.md says where each comes from. Seconds are of one processor core unless another unit is named."""

    side: int = 10980  # input pixels of a tile
    window: int = 4096  # input pixels of a window
    start: float = 1.1  # seconds of a start of SuperResolution
    core_seconds: float = 17.6  # f-light-x4, for a million input pixels, compression and overviews of OTB's part included
    base_factor: float = 3.4  # f-base-x4 over f-light-x4, network only
    host_seconds: float = 1.6  # the same for a network that costs nothing: what stays on the processor beside a GPU
    join_seconds: float = 1.5  # overviews, checksums and the COG, for a million input pixels
    multiplications: float = 13600.0  # f-light-x4, per output pixel (README)
    margins: float = 1.17  # computed over wanted pixels, blocks of 600 (decisions)
    gpu_flops: float = 1e13  # sustained on an H100-like GPU: an assumption, not measured
    host_cores: float = 8.0  # cores that come with a GPU
    core_euro: float = 0.04  # an hour of a core: an assumption
    gpu_euro: float = 2.5  # an hour of a GPU with its host: an assumption
    compressed: float = 0.62  # of the raw size, zstd with predictor


@dataclass(frozen=True)
class Cost:
    """What a tile takes."""

    core_seconds: float
    gpu_seconds: float
    raw_gb: float
    stored_gb: float
    cpu_euro: float
    gpu_euro: float


def cost(c: Constants, heavier: float = 1.0) -> Cost:
    """The cost of a tile by a network `heavier` times f-light-x4."""
    million = c.side**2 / 1e6
    windows = math.ceil(c.side / c.window) ** 2
    network = (c.core_seconds - c.host_seconds) * heavier
    core = million * (network + c.host_seconds + c.join_seconds) + windows * c.start
    gpu = 2 * c.multiplications * heavier * FACTOR**2 * c.side**2 * c.margins / c.gpu_flops
    host = million * (c.host_seconds + c.join_seconds) / c.host_cores + windows * c.start
    gpu_seconds = max(gpu, host)
    raw = c.side**2 * FACTOR**2 * BANDS * BYTES / 1e9
    return Cost(core, gpu_seconds, raw, raw * c.compressed * 4 / 3, core / 3600 * c.core_euro, gpu_seconds / 3600 * c.gpu_euro)


def duration(seconds: float) -> str:
    """A time in the unit that reads best."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 20 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def euros(value: float) -> str:
    """An amount with two figures that count."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"


def size(gigabytes: float) -> str:
    """A size in GB, TB or PB."""
    for unit, factor in (("PB", 1e6), ("TB", 1e3)):
        if gigabytes >= factor:
            return f"{gigabytes / factor:.1f} {unit}"
    return f"{gigabytes:.1f} GB"


def table(c: Constants) -> str:
    """The table, in Markdown."""
    lines = [
        "| what | model | one core | 32 cores | euros, cores | one GPU | euros, GPU | raw | stored |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place, tiles in {**PLACES, "all land": round(LAND, -2)}.items():
        for model, heavier in (("f-light-x4", 1.0), ("f-base-x4", c.base_factor)):
            one = cost(c, heavier)
            name = place if tiles == 1 else f"{place}, {tiles:,.0f} tiles"
            cells = [name, model, duration(one.core_seconds * tiles), duration(one.core_seconds * tiles / 32), euros(one.cpu_euro * tiles)]
            cells += [duration(one.gpu_seconds * tiles), euros(one.gpu_euro * tiles), size(one.raw_gb * tiles), size(one.stored_gb * tiles)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: str, text: str) -> str:
    """The page with `text` between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into doc/scale.md")
    for field in fields(Constants):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    write = given.pop("write")
    text = table(replace(Constants(), **given))
    if write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
