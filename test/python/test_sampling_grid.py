"""The C++ pixel geometry against exact rational arithmetic and against the Python one (§5, §7, §8: equal footprints, patches, nesting).

`otbSamplingGridCalculator`, built with the C++ tests, answers the questions. Coordinates are binary fractions, so `Fraction(x)` is what the
program was given, to the last bit; what a result may differ by is a small share of a pixel.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rasterio.windows import Window

from otbsr.errors import MissingToolError
from otbsr.grid import Grid
from otbsr.serving.otb import application_folder

TOLERANCE = Fraction(1, 10_000)
"""SamplingGrid::Tolerance: share of a pixel."""
FINE = 1e-6
"""Share of a pixel that rounding errors may be, far below the tolerance."""

Ask = Callable[..., str]
Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sampling:
    """SamplingGrid's values: corner, signed spacing, index, size."""

    left: float
    top: float
    dx: float
    dy: float
    column: int
    row: int
    width: int
    height: int

    @classmethod
    def parse(cls, answer: str) -> Sampling:
        words = answer.split()
        assert len(words) == 8, answer
        return cls(*map(float, words[:4]), *map(int, words[4:]))

    @property
    def region(self) -> Region:
        return self.column, self.row, self.width, self.height

    def exact(self, column: Fraction | int, row: Fraction | int) -> tuple[Fraction, Fraction]:
        """The point at an index counted from pixel edges."""
        return Fraction(self.left) + (column - self.column) * Fraction(self.dx), Fraction(self.top) + (row - self.row) * Fraction(self.dy)

    def position(self, x: float, y: float) -> tuple[Fraction, Fraction]:
        return (Fraction(x) - Fraction(self.left)) / Fraction(self.dx) + self.column, (Fraction(y) - Fraction(self.top)) / Fraction(self.dy) + self.row

    def edges(self, region: Region) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        column, row, width, height = region
        return (*self.exact(column, row), *self.exact(column + width, row + height))


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """`ask(operation, *values)`: the program's answer; values are numbers, grids and regions."""
    try:
        program = application_folder().parent / "bin" / "otbSamplingGridCalculator"
    except MissingToolError as error:
        pytest.skip(str(error))
    if not program.exists():
        pytest.skip(f"{program} was not built (BUILD_TESTING)")

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    process = start()

    def ask(operation: str, *values: object) -> str:
        nonlocal process
        words = [operation]
        for value in values:
            parts = astuple(value) if isinstance(value, Sampling) else value if isinstance(value, tuple) else (value,)
            words += [repr(part) for part in parts]
        if process.poll() is not None:  # it crashed at an earlier example
            process = start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(" ".join(words) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer.endswith("\n"):
            process.wait(10)
            pytest.fail(f"the program ended at: {words}")
        return answer.strip()

    yield ask
    process.communicate(timeout=10)
    assert process.returncode == 0


SPACINGS = st.sampled_from([10.0, 20.0, 60.0, 6.0, 1.5, 2.5, 1.67, 1 / 3, 10 / 3, 5 / 3, 0.5, 1e-4 / 3, 30000.0])
COORDINATES = st.one_of(
    st.sampled_from([0.0, 300000.0, 499980.0, 4900020.0, 9999999.9, -180.0]),
    st.floats(-1e7, 1e7, allow_nan=False).map(lambda x: round(x, 3)),
    st.floats(-1e7, 1e7, allow_nan=False),
)
SIZES = st.one_of(st.integers(1, 50_000), st.just(43_920))
INDICES = st.one_of(st.just(0), st.integers(-100_000, 100_000))
FACTORS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 10, 16])
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.floats(0.001, 0.999))


@st.composite
def grids(draw: st.DrawFn) -> Sampling:
    """North-up and south-up grids whose coordinates float64 holds to well below the tolerance."""
    dx = draw(SPACINGS)
    dy = draw(st.one_of(st.just(dx), SPACINGS))
    sign = draw(st.sampled_from([-1, -1, 1]))
    grid = Sampling(draw(COORDINATES), draw(COORDINATES), dx, sign * dy, draw(INDICES), draw(INDICES), draw(SIZES), draw(SIZES))
    assume(max(abs(grid.left), abs(grid.top)) / min(dx, dy) < 1e9)
    return grid


@st.composite
def parts(draw: st.DrawFn, grid: Sampling) -> Region:
    """A region inside the grid."""
    column, row = (draw(st.one_of(st.integers(0, size - 1), st.integers(max(0, size - 9), size - 1))) for size in (grid.width, grid.height))
    return grid.column + column, grid.row + row, draw(st.integers(1, grid.width - column)), draw(st.integers(1, grid.height - row))


def close(found: float, exact: Fraction, spacing: float, share: float = FINE) -> bool:
    return abs(Fraction(found) - exact) <= Fraction(share) * abs(Fraction(spacing))


def python_grid(grid: Sampling) -> Grid:
    return Grid(grid.left, grid.top, grid.dx, -grid.dy, grid.width, grid.height)


@given(grid=grids(), factor=FACTORS)
def test_refined(ask: Ask, grid: Sampling, factor: int) -> None:
    """Same corner to the bit, same footprint, indices and sizes times the factor; as in Python."""
    fine = Sampling.parse(ask("refined", grid, factor))
    assert (fine.left, fine.top) == (grid.left, grid.top)
    assert fine.region == tuple(factor * value for value in grid.region)
    for found, exact, spacing in zip(fine.edges(fine.region), grid.edges(grid.region), (fine.dx, fine.dy) * 2, strict=True):
        assert abs(found - exact) <= Fraction(FINE) * abs(Fraction(spacing))
    assert python_grid(fine) == python_grid(grid).refined(factor)
    assert fine == Sampling.parse(ask("scaled", grid, 1 / factor)) if factor > 1 else True
    assert ask("same", fine, Sampling.parse(ask("scaled", grid, float(f"{1 / factor:.7g}")))) == "1"  # a float32 parameter


@given(grid=grids(), first=FACTORS, second=FACTORS)
def test_refined_twice_is_refined_by_the_product(ask: Ask, grid: Sampling, first: int, second: int) -> None:
    twice = Sampling.parse(ask("refined", Sampling.parse(ask("refined", grid, first)), second))
    once = Sampling.parse(ask("refined", grid, first * second))
    assert twice.region == once.region and ask("same", twice, once) == "1"
    assert python_grid(twice).same(python_grid(once))


@given(grid=grids(), scale=st.one_of(st.sampled_from([1.5, 2, 3, 4, 10, 1.67, 0.3, 2 / 3, 0.75]), st.floats(0.05, 50)))
def test_scaled_keeps_the_corner_and_drops_the_last_partial_pixel(ask: Ask, grid: Sampling, scale: float) -> None:
    """§5: size = floor(extent / spacing), corner kept (upstream moves it by half the difference of the pixels)."""
    answer = ask("scaled", grid, scale)
    if answer.startswith("error"):
        assert min(grid.width, grid.height) < scale and "no pixel" in answer
        return
    scaled = Sampling.parse(answer)
    assert (scaled.left, scaled.top) == (grid.left, grid.top)
    for size, given_size, spacing, given_spacing in (
        (scaled.width, grid.width, scaled.dx, grid.dx),
        (scaled.height, grid.height, scaled.dy, grid.dy),
    ):
        assert spacing == pytest.approx(given_spacing * scale, rel=1e-6)
        exact = Fraction(given_size) * Fraction(given_spacing) / Fraction(spacing)
        assert size <= exact + 2 * TOLERANCE and size + 1 > exact - 2 * TOLERANCE


@given(grid=grids(), data=st.data())
def test_cropped_and_footprint(ask: Ask, grid: Sampling, data: st.DataObject) -> None:
    region = data.draw(parts(grid))
    exact = grid.edges(region)
    part = Sampling.parse(ask("cropped", grid, region))
    assert part.region == region and (part.dx, part.dy) == (grid.dx, grid.dy)
    footprint = [float(word) for word in ask("footprint", grid, region).split()]
    for found, value, spacing in zip([*footprint, part.left, part.top], [*exact, *exact[:2]], (grid.dx, grid.dy) * 3, strict=True):
        assert close(found, value, spacing)
    column, row, width, height = region
    cropped = python_grid(grid).cropped(Window(column - grid.column, row - grid.row, width, height))
    assert cropped.same(python_grid(part))


@given(grid=grids(), data=st.data())
def test_position(ask: Ask, grid: Sampling, data: st.DataObject) -> None:
    """To a millionth of a pixel at UTM coordinates: float32 could not tell pixels apart there."""
    column, row, width, height = data.draw(parts(grid))
    x, y = map(float, grid.exact(column + width * Fraction(data.draw(SHARES)), row + height * Fraction(data.draw(SHARES))))
    for found, exact in zip(ask("position", grid, x, y).split(), grid.position(x, y), strict=True):
        assert abs(Fraction(float(found)) - exact) <= Fraction(FINE)


@given(grid=grids())
def test_an_image_holds_the_grid(ask: Ask, grid: Sampling) -> None:
    """ITK's origin is the centre of index (0, 0), which may be far from the region; OTB keeps the sign apart from the spacing."""
    back = Sampling.parse(ask("image", grid))
    assert (back.dx, back.dy, back.region) == (grid.dx, grid.dy, grid.region)
    assert close(back.left, Fraction(grid.left), grid.dx) and close(back.top, Fraction(grid.top), grid.dy)


@given(coarse=grids(), factor=FACTORS, data=st.data())
def test_region_of_nested_footprints(ask: Ask, coarse: Sampling, factor: int, data: st.DataObject) -> None:
    """Every coarse region is a fine one; also when the fine grid's spacing was rounded in a file, and its own index starts elsewhere."""
    fine = Sampling.parse(ask("refined", coarse, factor))
    column, row, width, height = data.draw(parts(coarse))
    footprint = ask("footprint", coarse, (column, row, width, height))
    answer = ask("region", fine, tuple(map(float, footprint.split())))
    assert answer == f"{column * factor} {row * factor} {width * factor} {height * factor}"
    shift = data.draw(INDICES), data.draw(INDICES)
    moved = replace(fine, column=fine.column + shift[0], row=fine.row + shift[1])
    answer = ask("region", moved, tuple(map(float, footprint.split())))
    assert answer == f"{column * factor + shift[0]} {row * factor + shift[1]} {width * factor} {height * factor}"


@given(grid=grids(), data=st.data())
def test_region_of_any_footprint(ask: Ask, grid: Sampling, data: st.DataObject) -> None:
    """The region exactly when all four edges are pixel edges within the tolerance, by exact arithmetic."""
    column, row, width, height = data.draw(parts(grid))
    shifts = data.draw(st.tuples(*[st.sampled_from([0, 0, 0, 1e-5, -1e-5, 5e-4, -5e-4, 0.25, 0.5])] * 4))
    edges = [
        float(edge + Fraction(shift) * abs(Fraction(spacing)))
        for edge, shift, spacing in zip(grid.edges((column, row, width, height)), shifts, (grid.dx, grid.dy) * 2, strict=True)
    ]
    positions = [*grid.position(*edges[:2]), *grid.position(*edges[2:])]
    answer = ask("region", grid, tuple(edges))
    offsets = [abs(position - round(position)) for position in positions]
    if max(offsets) > TOLERANCE * 11 / 10 or any(round(b) <= round(a) for a, b in zip(positions[:2], positions[2:], strict=True)):
        assert answer.startswith("none ") and "not pixel edges" in answer
    elif max(offsets) < TOLERANCE * 9 / 10:
        first, last = [round(position) for position in positions[:2]], [round(position) for position in positions[2:]]
        assert answer == f"{first[0]} {first[1]} {last[0] - first[0]} {last[1] - first[1]}"


def expected_patch(grid: Sampling, x: float, y: float, width: int, height: int) -> Region | None:
    """The patch around a point by exact arithmetic; None where rounding errors may decide (a hair before the tolerance)."""
    first = []
    for position, size in zip(grid.position(x, y), (width, height), strict=True):
        index = math.floor(position + TOLERANCE)
        if min(position + TOLERANCE - index, index + 1 - position - TOLERANCE) < Fraction(FINE):
            return None
        first.append(index - size // 2)
    return first[0], first[1], width, height


@given(grid=grids(), data=st.data())
def test_patch_around_any_point(ask: Ask, grid: Sampling, data: st.DataObject) -> None:
    """§8: pixel (width / 2, height / 2) of the patch holds the point; a point on an edge belongs to the pixel after it. One pixel further,
    one pixel further."""
    column, row = data.draw(st.integers(-5, grid.width + 5)), data.draw(st.integers(-5, grid.height + 5))
    share = data.draw(SHARES), data.draw(SHARES)
    x, y = map(float, grid.exact(grid.column + column + Fraction(share[0]), grid.row + row + Fraction(share[1])))
    size = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 64))
    patch = tuple(map(int, ask("patch", grid, x, y, *size).split()))
    expected = expected_patch(grid, x, y, *size)
    if expected is not None:
        assert patch == expected
    if 0.001 <= share[0] <= 0.999 and 0.001 <= share[1] <= 0.999:
        assert patch == (grid.column + column - size[0] // 2, grid.row + row - size[1] // 2, *size)
        assert python_grid(grid).position(x, y) == pytest.approx((column + share[0], row + share[1]), abs=1e-4)


@given(coarse=grids(), factor=FACTORS, data=st.data())
def test_pairs_of_nested_grids_have_one_footprint_wherever_the_point_is(ask: Ask, coarse: Sampling, factor: int, data: st.DataObject) -> None:
    """DESIGN's rule 3: equal ground. Upstream's pairs are up to factor - 1 fine pixels apart (§5)."""
    refined = Sampling.parse(ask("refined", coarse, factor))
    cut = data.draw(parts(refined)) if data.draw(st.booleans()) else refined.region
    fine = Sampling.parse(ask("cropped", refined, cut))
    size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    column, row = data.draw(st.integers(-2, coarse.width + 2)), data.draw(st.integers(-2, coarse.height + 2))
    x, y = map(float, coarse.exact(coarse.column + column + Fraction(data.draw(SHARES)), coarse.row + row + Fraction(data.draw(SHARES))))
    answer = ask("pair", coarse, fine, x, y, *size)
    patch = expected_patch(coarse, x, y, *size)
    if patch is None:
        return
    children = tuple(factor * value for value in patch)

    def inside(region: tuple[int, ...], whole: Region) -> bool:
        return all(whole[k] <= region[k] and region[k] + region[k + 2] <= whole[k] + whole[k + 2] for k in (0, 1))

    if not inside(patch, coarse.region):
        assert answer == "outside coarse"
    elif not inside(children, fine.region):
        assert answer == "outside fine"
    else:
        assert answer == "accepted " + " ".join(map(str, (*patch, *children)))


@given(coarse=grids(), factor=FACTORS, share=st.floats(0.01, 0.99), axis=st.sampled_from([0, 1]))
def test_pairs_of_grids_that_do_not_nest_are_refused(ask: Ask, coarse: Sampling, factor: int, share: float, axis: int) -> None:
    assume(min(coarse.width, coarse.height) > 8)
    fine = Sampling.parse(ask("refined", coarse, factor))
    fine = replace(fine, left=fine.left + share * fine.dx) if axis == 0 else replace(fine, top=fine.top + share * fine.dy)
    x, y = map(float, coarse.exact(coarse.column + 4 + Fraction(1, 2), coarse.row + 4 + Fraction(1, 2)))
    assert ask("pair", coarse, fine, x, y, 4, 4) == "not nested"
    assert ask("same", Sampling.parse(ask("refined", coarse, factor)), fine) == "0"


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan, 1e300, -1e300, 1e18])
def test_points_and_footprints_at_infinity_are_outside(ask: Ask, wrong: float) -> None:
    """What a damaged vector file may hold: no overflow, no patch."""
    grid = Sampling(300000.0, 4900020.0, 10.0, -10.0, 3, -2, 100, 90)
    fine = Sampling.parse(ask("refined", grid, 4))
    for x, y in ((wrong, 4900000.0), (300100.0, wrong), (wrong, wrong)):
        assert ask("pair", grid, fine, x, y, 4, 4) == "outside coarse"
        assert ask("region", grid, x, y, 300100.0, 4899920.0).startswith("none")
        assert ask("region", grid, 300000.0, 4900020.0, x, y).startswith("none")


def test_grids_that_cannot_be_are_errors(ask: Ask) -> None:
    good = Sampling(300000.0, 4900020.0, 10.0, -10.0, 0, 0, 100, 90)
    for change in ({"dx": 0.0}, {"dy": math.nan}, {"dx": math.inf}, {"left": math.nan}, {"top": -math.inf}, {"width": 0}, {"height": 0}):
        assert ask("refined", replace(good, **change), 2).startswith("error")
    for scale in (0.0, -1.0, math.nan, math.inf, 1e-30, 1e-300, 3e-9, 1e30):
        assert ask("scaled", good, scale).startswith("error"), scale
    assert ask("refined", good, 0).startswith("error")
    assert "can be made" in ask("refined", replace(good, width=2**31 - 1), 16).replace("cannot", "can")
