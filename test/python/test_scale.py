"""The cost model of doc/scale.md: its arithmetic by hand, and that the page shows what the script computes."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("scale", ROOT / "tools" / "scale.py")
assert spec and spec.loader
scale = sys.modules["scale"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)


def test_a_tile_by_hand() -> None:
    c = scale.Constants(
        side=1000, window=500, start=2, core_seconds=11, host_seconds=1, join_seconds=0.5, core_euro=3600, gpu_euro=7200, host_cores=2, compressed=0.5
    )
    one = scale.cost(c)
    assert one.core_seconds == pytest.approx(11 + 0.5 + 4 * 2) and one.cpu_euro == pytest.approx(19.5)
    assert scale.cost(c, 3).core_seconds == pytest.approx(3 * 10 + 1 + 0.5 + 8)
    assert one.raw_gb == pytest.approx(4000 * 4000 * 4 * 2 / 1e9) and one.stored_gb == pytest.approx(one.raw_gb * 0.5 * 4 / 3)
    assert one.gpu_seconds == pytest.approx(1.5 / 2 + 8), "the host is what lasts"
    slow = scale.cost(replace(c, gpu_flops=1e9))
    assert slow.gpu_seconds == pytest.approx(2 * 13600 * 16 * 1e6 * 1.17 / 1e9) and slow.gpu_euro == pytest.approx(2 * slow.gpu_seconds)


def test_a_tiles_size_is_the_known_one() -> None:
    assert scale.cost(scale.Constants()).raw_gb == pytest.approx(43920**2 * 8 / 1e9) == pytest.approx(15.43, abs=0.01)
    assert abs(scale.LAND - 17537) < 1


def test_the_page_shows_this_table_and_these_constants() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.with_table(page, scale.table(scale.Constants())) == page, "run: python tools/scale.py --write"
    for name in (field for field in scale.Constants.__dataclass_fields__ if field != "side"):
        assert f"`{name}`" in page, name
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        value = float(row.split("|")[2].replace(",", "").split()[0])
        assert value == getattr(scale.Constants(), name), name


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h"), (86400 * 30, "30 days"), (86400 * 365.25 * 25, "25 years")]
)
def test_durations(seconds: float, text: str) -> None:
    assert scale.duration(seconds) == text
