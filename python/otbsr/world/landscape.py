"""Landscape: a seeded vector landscape at sub-metre precision, from open country to a town.

Roads split the land hierarchically into parcels; each parcel gets a use that depends on how urban its place is; each use
lays out its objects (lots, houses, sheds, car parks, hedges, trees). Objects are painted in the order of `Layer`.
Coordinates are metres from the lower-left corner of the domain, x eastward, y northward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import shapely
import shapely.ops
from numpy.typing import NDArray
from scipy import ndimage
from shapely import LineString, Point, Polygon, affinity
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

Floats = NDArray[np.float64]


class LandCover(IntEnum):
    """Land-cover classes of the map."""

    BUILDING = 1
    ROAD = 2
    BARE_SOIL = 3
    CROP = 4
    GRASSLAND = 5
    BROADLEAF = 6
    CONIFER = 7
    WATER = 8
    GARDEN = 9


LEGEND: dict[LandCover, tuple[str, str, bool]] = {
    LandCover.BUILDING: ("building", "#d7301f", True),
    LandCover.ROAD: ("road and paved", "#737373", True),
    LandCover.BARE_SOIL: ("bare soil", "#d9b382", False),
    LandCover.CROP: ("crop", "#f2e26b", False),
    LandCover.GRASSLAND: ("grassland", "#a6d96a", False),
    LandCover.BROADLEAF: ("broadleaf trees", "#33a02c", False),
    LandCover.CONIFER: ("conifers", "#1b5e3b", False),
    LandCover.WATER: ("water", "#4292c6", False),
    LandCover.GARDEN: ("garden and urban green", "#ccebc5", False),
}
"""Name, colour, and whether the surface is artificial."""


class Layer(IntEnum):
    """Painting order: later covers earlier."""

    GROUND = 0
    WATER = 1
    PAVEMENT = 2
    ROAD = 3
    LOT = 4
    YARD = 5
    BUILDING = 6
    CAR = 7


@dataclass
class Feature:
    """A polygon with one cover.

    Attributes:
        geometry: polygon, metres in the domain.
        layer: painting order.
        land_cover: its class, unless the season makes bare soil of it.
        cover: a material, or a cover with a season (see `materials.cover_at`).
        soil: material below a cover with a season.
        height: metres above ground.
        slope: share by which its sunlit slope is brighter or darker (roof sides): outward azimuth in degrees, or None.
        rows: direction of rows in radians, or None.
        spread: factor on the material's object-to-object variation.

    """

    geometry: Polygon
    layer: Layer
    land_cover: LandCover
    cover: str
    soil: str = "soil_light"
    height: float = 0.0
    slope: float | None = None
    rows: float | None = None
    spread: float = 1.0
    phase: float = 0.0


@dataclass
class Landscape:
    """Objects in painting order, and trees (n, 5): x, y, crown radius, height, 1 where conifer."""

    size: float
    features: list[Feature] = field(default_factory=list)
    trees: Floats = field(default_factory=lambda: np.empty((0, 5)))


def polygons_of(geometry: BaseGeometry, at_least: float = 1.0) -> list[Polygon]:
    """The polygons of any geometry whose area is at least so many square metres."""
    parts = shapely.get_parts(geometry)
    return [part for part in parts if isinstance(part, Polygon) and part.area >= at_least]


def rectangle(x: float, y: float, length: float, width: float, angle: float) -> Polygon:
    """A rectangle about (x, y), `length` along `angle` (radians)."""
    c, s = math.cos(angle), math.sin(angle)
    corners = [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    return Polygon([(x + u * c - v * s, y + u * s + v * c) for u, v in corners])


def long_axis(polygon: Polygon) -> tuple[float, float, float]:
    """Angle (radians), length and width of the smallest rectangle around `polygon`."""
    box = polygon.minimum_rotated_rectangle
    if not isinstance(box, Polygon):
        return 0.0, 0.0, 0.0
    points = np.array(box.exterior.coords)
    sides = np.diff(points, axis=0)[:2]
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    side = sides[int(lengths.argmax())]
    return math.atan2(side[1], side[0]) % math.pi, float(lengths.max()), float(lengths.min())


class SmoothNoise:
    """A smooth random field on the domain with values as ranks: uniform in 0..1 over the area."""

    def __init__(self, generator: np.random.Generator, size: float, scale: float, trend: Floats | None = None) -> None:
        """Make a field whose patches are about `scale` metres; `trend` (64, 64) is added in units of its standard deviation."""
        values = ndimage.gaussian_filter(generator.standard_normal((64, 64)), scale / size * 64, mode="reflect")
        values = values / max(float(values.std()), 1e-12)
        if trend is not None:
            values = values + trend
        self._size = size
        self._ranks = (values.ravel().argsort().argsort().reshape(64, 64) + 0.5) / values.size

    def at(self, x: float, y: float) -> float:
        """The rank at a place (lower row first)."""
        i, j = (int(np.clip(v / self._size * 64, 0, 63)) for v in (y, x))
        return float(self._ranks[i, j])


class Builder:
    """Lays a landscape out; one use, one method."""

    def __init__(self, seed: int, size: float, urban: float, gradient: float) -> None:
        """`urban`: share of the area that is built up; `gradient`: 0 scattered, 1 a single slope from country to town."""
        self.rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        self.size, self.urban = size, urban
        self.features: list[Feature] = []
        self.trees: list[Floats] = []
        direction = self.rng.uniform(0, 2 * math.pi)
        v, u = np.mgrid[-1:1:64j, -1:1:64j]
        slope = (u * math.cos(direction) + v * math.sin(direction)) * (3.0 * gradient)
        self.urbanity = SmoothNoise(self.rng, size, 260.0, slope)
        self.wooded = SmoothNoise(self.rng, size, 220.0)
        self.needles = SmoothNoise(self.rng, size, 300.0)
        self.water: BaseGeometry = Polygon()

    def build(self) -> Landscape:
        """The whole landscape."""
        domain = shapely.box(0, 0, self.size, self.size)
        self.add(domain, Layer.GROUND, LandCover.GRASSLAND, "meadow", phase=-10.0)
        self.lay_water(domain)
        self.divide(domain, domain.area, wet=False)
        order = sorted(self.features, key=lambda feature: feature.layer)
        trees = np.concatenate(self.trees) if self.trees else np.empty((0, 5))
        return Landscape(self.size, order, trees)

    def add(self, geometry: BaseGeometry, layer: Layer, land_cover: LandCover, cover: str, at_least: float = 1.0, **more: object) -> None:
        """Add each polygon of `geometry`, snapped to centimetres: it stays valid when moved to map coordinates."""
        for polygon in polygons_of(shapely.set_precision(geometry, 0.01), at_least):
            self.features.append(Feature(polygon, layer, land_cover, cover, **more))  # type: ignore[arg-type]

    def choose(self, **weights: float) -> str:
        """A name, with these weights."""
        share = np.array(list(weights.values()))
        return str(list(weights)[int(self.rng.choice(share.size, p=share / share.sum()))])

    def plant(self, points: Floats, radius: tuple[float, float], conifer: float = 0.0) -> None:
        """Plant trees at `points` (n, 2), crown radius in a range (metres), a share of them conifers."""
        n = len(points)
        if n:
            r = self.rng.uniform(*radius, n)
            needle = self.rng.random(n) < conifer
            height = np.where(needle, 4.2, 2.6) * r * self.rng.uniform(0.8, 1.2, n) + 1.0
            self.trees.append(np.column_stack([points, r, np.minimum(height, 24.0), needle]))

    def scatter(self, polygon: Polygon, spacing: float, share: float = 1.0) -> Floats:
        """Jittered hexagonal points inside `polygon`, about `spacing` apart, a `share` of them kept."""
        x0, y0, x1, y1 = polygon.bounds
        ys = np.arange(y0, y1 + spacing, spacing * 0.87)
        xs = np.arange(x0, x1 + spacing, spacing)
        x, y = np.meshgrid(xs, ys)
        x[1::2] += spacing / 2
        points = np.column_stack([x.ravel(), y.ravel()]) + self.rng.uniform(-0.33, 0.33, (x.size, 2)) * spacing
        keep = shapely.contains_xy(polygon, points[:, 0], points[:, 1]) & (self.rng.random(len(points)) < share)
        return np.asarray(points[keep])

    def alley(self, line: BaseGeometry, spacing: float, radius: tuple[float, float], share: float = 1.0) -> None:
        """Trees along a line."""
        for part in shapely.get_parts(line):
            if part.length > spacing:
                at = np.arange(spacing / 2, part.length, spacing)
                at = at[self.rng.random(at.size) < share]
                points = shapely.get_coordinates(shapely.line_interpolate_point(part, at)) + self.rng.normal(0, 0.4, (at.size, 2))
                self.plant(points, radius)

    # --- water -----------------------------------------------------------------------------------------------------------

    def lay_water(self, domain: Polygon) -> None:
        """A meandering river across the domain, wooded banks, and ponds and lakes away from the town."""
        parts: list[BaseGeometry] = []
        angle = self.rng.uniform(0, math.pi)
        along = np.linspace(-0.75, 0.75, 80) * self.size
        swing = self.rng.uniform(40, 90) * np.sin(along / self.rng.uniform(140, 240) + self.rng.uniform(0, 6))
        swing += self.rng.uniform(10, 30) * np.sin(along / self.rng.uniform(45, 70))
        offset = self.rng.uniform(-0.25, 0.25) * self.size
        c, s = math.cos(angle), math.sin(angle)
        x = self.size / 2 + along * c - (swing + offset) * s
        y = self.size / 2 + along * s + (swing + offset) * c
        line = LineString(np.column_stack([x, y]))
        river = line.buffer(self.rng.uniform(5, 14)).intersection(domain)
        bank = line.buffer(self.rng.uniform(24, 34)).intersection(domain).difference(river.buffer(2))
        self.add(river, Layer.WATER, LandCover.WATER, "water_turbid")
        for strip in polygons_of(bank, 50):
            self.plant(self.scatter(strip, 7.0, 0.55), (2.5, 5.0))
        parts += [river]
        count = max(1, round(self.size**2 / 2.2e6)) + 1
        tries = 0
        while len(parts) < count + 1 and tries < 200:
            tries += 1
            px, py = self.rng.uniform(0.08, 0.92, 2) * self.size
            if self.urbanity.at(px, py) > 1 - self.urban:
                continue
            radius = min(float(self.rng.lognormal(math.log(45), 0.55)), 0.09 * self.size)
            theta = np.linspace(0, 2 * math.pi, 48, endpoint=False)
            r = radius * (1 + 0.22 * np.sin(2 * theta + px) + 0.12 * np.sin(3 * theta + py) + 0.05 * np.sin(7 * theta))
            lake = Polygon(np.column_stack([px + r * np.cos(theta), py + 0.7 * r * np.sin(theta)])).intersection(domain)
            if any(lake.distance(other) < 60 for other in parts):
                continue
            self.add(lake, Layer.WATER, LandCover.WATER, self.choose(water_clear=0.7, water_turbid=0.3))
            self.alley(lake.buffer(6).exterior, 9.0, (2.0, 4.5), 0.4)
            parts.append(lake)
        self.water = shapely.union_all(parts).buffer(10)

    # --- roads and parcels -----------------------------------------------------------------------------------------------

    def urban_rank(self, polygon: Polygon) -> float:
        """Below 0 in the country; 0 at the town's fringe to 1 in its centre."""
        centre = polygon.centroid
        return (self.urbanity.at(centre.x, centre.y) - (1 - self.urban)) / max(self.urban, 1e-9)

    def divide(self, cell: Polygon, parent_area: float, wet: bool) -> None:
        """Split a cell by a road or a boundary until it has the size of a parcel, then use it."""
        if cell.area < 150:
            return
        if not wet and cell.area < 4e5:
            for piece in polygons_of(cell.difference(self.water), 150):
                self.divide(piece, parent_area, wet=True)
            return
        rank = self.urban_rank(cell)
        town = rank > 0
        if not town and wet and cell.area < 2.2e5 and self.forest_here(cell):
            return self.forest(cell)
        industrial = town and rank < 0.35
        wanted = self.rng.lognormal(math.log((11000 if industrial else 6500 - 2500 * rank) if town else 19000), 0.35 if town else 0.6)
        if cell.area < 1.5 * wanted and wet:
            return self.use(cell, rank)
        line = self.cut(cell, town)
        kind, width = self.road_kind(cell.area, town)
        road = line.buffer(width / 2, cap_style="flat").intersection(cell) if width else Polygon()
        if width:
            self.lay_road(cell, line, kind, width, town)
        pieces = polygons_of(split(cell, line))
        if len(pieces) < 2:
            return self.use(cell, rank)
        for piece in pieces:
            for part in polygons_of(piece.difference(road), 60):
                self.divide(part, cell.area, wet)

    def cut(self, cell: Polygon, town: bool) -> LineString:
        """A line across the cell's long side, a little off the middle, a little off the square, bent in the country."""
        angle, length, width = long_axis(cell)
        centre = cell.centroid
        t = self.rng.uniform(-0.12, 0.12) * length
        mid = (centre.x + t * math.cos(angle), centre.y + t * math.sin(angle))
        across = angle + math.pi / 2 + self.rng.normal(0, 0.03 if town else 0.09)
        reach = (length + width) * 1.2
        steps = np.array([-1, -0.2, -0.07, 0.0, 0.07, 0.2, 1]) * reach
        bend = self.rng.normal(0, (0.008 if town else 0.022) * width, steps.size)
        bend[[0, -1]] = 0
        c, s = math.cos(across), math.sin(across)
        return LineString([(mid[0] + u * c - v * s, mid[1] + u * s + v * c) for u, v in zip(steps, bend, strict=True)])

    def road_kind(self, area: float, town: bool) -> tuple[str, float]:
        """Kind and width (metres) of what separates the two halves of a cell of `area`."""
        if area > 1.5e6:
            return "main", float(self.rng.uniform(14, 20))
        if area > 4e5:
            return "road", float(self.rng.uniform(8, 11))
        if area > 1e5:
            return "road", float(self.rng.uniform(5.5, 7.5))
        if town:
            return "street", float(self.rng.uniform(5, 8))
        kind = self.choose(none=0.42, track=0.22, hedge=0.22, strip=0.14)
        return kind, {"none": 0.0, "track": self.rng.uniform(3, 4), "hedge": self.rng.uniform(3, 6), "strip": self.rng.uniform(3, 8)}[kind]

    def lay_road(self, cell: Polygon, line: LineString, kind: str, width: float, town: bool) -> None:
        """The road, its pavements and its trees."""
        inside = line.intersection(cell)
        band = line.buffer(width / 2, cap_style="flat").intersection(cell)
        if kind == "hedge":
            self.alley(inside, 3.5, (1.6, 3.2), 0.85)
            return
        if kind == "strip":
            return
        if kind == "track":
            self.add(band, Layer.ROAD, LandCover.ROAD, "gravel")
            return
        surface = self.choose(asphalt=0.5, asphalt_old=0.5)
        if town:
            self.add(band, Layer.PAVEMENT, LandCover.ROAD, "concrete" if self.rng.random() < 0.6 else "asphalt_old")
            band = line.buffer(width / 2 - 1.2, cap_style="flat").intersection(cell)
            if width > 6.5 and self.rng.random() < 0.5:
                for side in (-1, 1):
                    self.alley(line.parallel_offset(width / 2 + 0.5, "left" if side > 0 else "right").intersection(cell), 10.0, (1.8, 3.4), 0.7)
        elif self.rng.random() < 0.35:
            self.alley(line.parallel_offset(width / 2 + 3.5, "left").intersection(cell), 9.0, (2.0, 4.0), 0.8)
        self.add(band, Layer.ROAD, LandCover.ROAD, surface)

    # --- the country -----------------------------------------------------------------------------------------------------

    def forest_here(self, cell: Polygon) -> bool:
        """Whether the wood takes the whole cell."""
        centre = cell.centroid
        return self.wooded.at(centre.x, centre.y) > 0.80

    def forest(self, cell: Polygon) -> None:
        """A wood of broadleaf trees or conifers, with a track and clearings."""
        centre = cell.centroid
        conifer = self.needles.at(centre.x, centre.y) > 0.58
        land_cover = LandCover.CONIFER if conifer else LandCover.BROADLEAF
        wood = cell.buffer(-2.0)
        if self.rng.random() < 0.5:
            path = self.cut(cell, town=False)
            band = path.buffer(2.0, cap_style="flat").intersection(cell)
            self.add(band, Layer.ROAD, LandCover.ROAD, "gravel")
            wood = wood.difference(path.buffer(3.5))
        for part in polygons_of(wood, 100):
            self.add(part, Layer.GROUND, land_cover, "understory" if not conifer else "litter")
            self.plant(self.scatter(part, 4.6 if conifer else 6.0, 0.97), (2.2, 3.4) if conifer else (2.8, 5.2), 0.97 if conifer else 0.03)

    def use(self, cell: Polygon, rank: float) -> None:
        """Give a parcel its use."""
        if rank > 0:
            return self.use_in_town(cell, rank)
        angle, _length, width = long_axis(cell)
        soil = self.choose(soil_light=0.6, soil_dark=0.4)
        phase = float(self.rng.normal(0, 7))
        inside = cell.buffer(-0.8)
        kind = self.choose(crop=0.60, meadow=0.19, bare=0.09, copse=0.04, vineyard=0.04, farm=0.04)
        if kind == "farm" and (cell.area < 3000 or cell.area > 30000 or width < 45):
            kind = "meadow"
        if kind == "crop":
            cover = self.choose(winter_crop=0.45, rapeseed=0.12, summer_crop=0.43)
            self.add(inside, Layer.GROUND, LandCover.CROP, cover, soil=soil, phase=phase, rows=angle + float(self.rng.choice([0.0, 0.0, 0.0, math.pi / 2])))
        elif kind == "vineyard":
            self.add(inside.buffer(-3), Layer.GROUND, LandCover.CROP, "vineyard", soil=soil, phase=phase, rows=angle)
        elif kind == "bare":
            self.add(inside, Layer.GROUND, LandCover.BARE_SOIL, soil, rows=angle)
        elif kind == "copse":
            self.forest(cell)
        elif kind == "farm":
            self.farm(cell, angle)
        else:
            self.add(inside, Layer.GROUND, LandCover.GRASSLAND, "meadow", phase=float(self.rng.normal(0, 15)))
            for part in polygons_of(cell.buffer(-6), 100):
                self.plant(self.scatter(part, 16.0, 0.05), (2.5, 5.0))

    def farm(self, cell: Polygon, angle: float) -> None:
        """A farmyard with barns and a house in a meadow."""
        self.add(cell.buffer(-1), Layer.GROUND, LandCover.GRASSLAND, "meadow")
        centre = cell.representative_point()
        yard = rectangle(centre.x, centre.y, 62, 42, angle).intersection(cell.buffer(-3))
        self.add(yard, Layer.LOT, LandCover.ROAD, self.choose(gravel=0.7, asphalt_old=0.3))
        placed: list[Polygon] = []
        for _ in range(9):
            x, y = centre.x + self.rng.uniform(-28, 28), centre.y + self.rng.uniform(-18, 18)
            barn = rectangle(x, y, self.rng.uniform(16, 34), self.rng.uniform(9, 15), angle + self.rng.choice([0, math.pi / 2]))
            if yard.buffer(4).contains(barn) and all(barn.distance(other) > 5 for other in placed):
                placed.append(barn)
                self.roof(barn, self.choose(roof_metal=0.3, roof_tile=0.5, roof_slate=0.2), float(self.rng.uniform(5, 9)), gabled=True)
        self.alley(yard.boundary, 8.0, (2.0, 4.5), 0.4)

    # --- the town --------------------------------------------------------------------------------------------------------

    def use_in_town(self, cell: Polygon, rank: float) -> None:
        """Give a block of the town its use; `rank` 0 at the fringe, 1 in the centre."""
        core = max(0.0, rank - 0.65) * 2.5
        kind = self.choose(
            houses=0.62, dense=core, flats=0.07 + 0.12 * rank, industry=0.22 * max(0.0, 1 - 2.2 * rank), park=0.07, site=0.035, sport=0.02, parking=0.03
        )
        angle, _length, width = long_axis(cell)
        if kind != "houses" and width < 34:
            kind = "houses"
        if cell.area < 500:
            kind = "lawn"
        getattr(self, kind)(cell, angle)

    def lawn(self, cell: Polygon, angle: float) -> None:
        """Left-over public green."""
        self.add(cell, Layer.LOT, LandCover.GARDEN, "lawn")

    def roof(self, footprint: Polygon, material: str, height: float, gabled: bool) -> None:
        """A building; a gabled roof is two halves with opposite slopes along the long axis."""
        if not gabled:
            self.add(footprint, Layer.BUILDING, LandCover.BUILDING, material, height=height)
            return
        angle, length, _width = long_axis(footprint)
        centre = footprint.centroid
        c, s = math.cos(angle) * length, math.sin(angle) * length
        ridge = LineString([(centre.x - c, centre.y - s), (centre.x + c, centre.y + s)])
        for half in polygons_of(split(footprint, ridge)):
            middle = half.centroid
            azimuth = math.degrees(math.atan2(middle.x - centre.x, middle.y - centre.y)) % 360
            self.add(half, Layer.BUILDING, LandCover.BUILDING, material, height=height, slope=azimuth, spread=0.35)

    def houses(self, cell: Polygon, angle: float) -> None:
        """Detached houses along the block's edges, each on its lot with garden, drive, trees, hedges, now and then a pool."""
        lot_width, depth = self.rng.uniform(15, 26), self.rng.uniform(9, 12)
        setback = self.rng.uniform(3.5, 8)
        tile = self.choose(roof_tile=0.62, roof_slate=0.28, roof_gravel=0.10)
        homes: list[tuple[Polygon, Point]] = []
        for ring_polygon in polygons_of(cell.buffer(-(setback + depth / 2)), 30):
            ring = ring_polygon.exterior
            for at in np.arange(lot_width / 2, ring.length, lot_width):
                point, ahead = ring.interpolate(at), ring.interpolate(at + 1.0)
                along = math.atan2(ahead.y - point.y, ahead.x - point.x)
                long = self.rng.uniform(9.5, min(16, lot_width - 4))
                house = rectangle(point.x, point.y, long, depth * self.rng.uniform(0.85, 1.0), along)
                if cell.buffer(-2).contains(house) and all(house.distance(other) > 3.5 for other, _ in homes[-3:] + homes[:4]):
                    if any(house.intersects(other) for other, _ in homes):
                        continue
                    homes.append((house, point))
        self.lots(cell, [point for _, point in homes])
        for house, point in homes:
            material = tile if self.rng.random() < 0.8 else self.choose(roof_tile=0.5, roof_slate=0.3, roof_gravel=0.2)
            height = float(self.rng.uniform(4.5, 8))
            gabled = material != "roof_gravel"
            if self.rng.random() < 0.3:
                wing_angle = long_axis(house)[0]
                wing = rectangle(
                    point.x + self.rng.uniform(-4, 4) * math.cos(wing_angle), point.y + self.rng.uniform(-4, 4) * math.sin(wing_angle), 6, 13, wing_angle
                )
                if cell.buffer(-1.5).contains(wing):
                    self.roof(wing, material, height - 1.0, gabled=False)
            self.roof(house, material, height, gabled)
            street = shapely.ops.nearest_points(point, cell.exterior)[1]
            away = math.atan2(street.y - point.y, street.x - point.x)
            side = self.rng.choice([-1, 1]) * self.rng.uniform(2.5, 4.5)
            ox, oy = -math.sin(away) * side, math.cos(away) * side
            drive = LineString([(point.x + ox, point.y + oy), (street.x + ox + math.cos(away), street.y + oy + math.sin(away))])
            surface = self.choose(gravel=0.4, concrete=0.35, asphalt=0.25)
            self.add(drive.buffer(self.rng.uniform(1.4, 2.6), cap_style="flat"), Layer.YARD, LandCover.ROAD, surface)
            if self.rng.random() < 0.14:
                pool = rectangle(point.x - math.cos(away) * 13, point.y - math.sin(away) * 13, 8, 4, away)
                if cell.buffer(-2).contains(pool):
                    self.add(pool.buffer(1.2), Layer.YARD, LandCover.ROAD, "concrete")
                    self.add(pool, Layer.YARD, LandCover.WATER, "pool")
        inner = cell.buffer(-2.5)
        for part in polygons_of(inner, 50):
            points = self.scatter(part, 8.0, 0.22)
            if homes and len(points):
                built = shapely.union_all([house for house, _ in homes]).buffer(3)
                points = points[~shapely.contains_xy(built, points[:, 0], points[:, 1])]
            self.plant(points, (1.4, 4.0), 0.2)
        if self.rng.random() < 0.35:
            self.alley(cell.buffer(-1).boundary, 2.2, (0.9, 1.5), 0.55)

    def lots(self, cell: Polygon, points: list[Point]) -> None:
        """Gardens: the block cut into the points' Voronoi cells, each kept in its own way."""
        pieces: list[Polygon] = [cell]
        if len(points) > 1:
            tiles = shapely.voronoi_polygons(shapely.MultiPoint(points), extend_to=cell)
            pieces = [part for tile in shapely.get_parts(tiles) for part in polygons_of(tile.intersection(cell), 5)]
        for piece in pieces:
            cover = self.choose(lawn=0.58, grass_green=0.22, grass_dry=0.14, soil_dark=0.06)
            self.add(piece, Layer.LOT, LandCover.GARDEN, "lawn" if cover == "soil_dark" else cover)
            if cover == "soil_dark":
                centre = piece.representative_point()
                patch = rectangle(centre.x, centre.y, 9, 6, self.rng.uniform(0, 3)).intersection(piece.buffer(-1))
                self.add(patch, Layer.LOT, LandCover.BARE_SOIL, "soil_dark", 10)

    def dense(self, cell: Polygon, angle: float) -> None:
        """Old town: terraced buildings around a court."""
        self.add(cell, Layer.LOT, LandCover.ROAD, "concrete")
        outer = cell.buffer(-0.5)
        court = outer.buffer(-self.rng.uniform(10, 14))
        if not court.is_empty:
            self.add(court, Layer.YARD, LandCover.GARDEN, self.choose(lawn=0.6, grass_green=0.4))
            for part in polygons_of(court.buffer(-2), 30):
                self.plant(self.scatter(part, 9.0, 0.3), (1.8, 3.6))
        ring = outer.difference(court)
        centre = cell.centroid
        seats = shapely.line_interpolate_point(outer.exterior, np.arange(0, outer.exterior.length, self.rng.uniform(11, 18)))
        tiles = shapely.voronoi_polygons(shapely.MultiPoint([(p.x, p.y) for p in seats] + [(centre.x, centre.y)]), extend_to=cell)
        for tile in shapely.get_parts(tiles):
            for part in polygons_of(tile.intersection(ring), 25):
                if self.rng.random() < 0.93:
                    material = self.choose(roof_tile=0.5, roof_slate=0.35, roof_gravel=0.15)
                    self.roof(part, material, float(self.rng.uniform(8, 15)), gabled=False)

    def flats(self, cell: Polygon, angle: float) -> None:
        """Slab blocks on lawns with a car park."""
        self.lawn(cell, angle)
        inside = cell.buffer(-6)
        placed: list[Polygon] = []
        for _ in range(14):
            x0, y0, x1, y1 = cell.bounds
            slab = rectangle(
                self.rng.uniform(x0, x1),
                self.rng.uniform(y0, y1),
                self.rng.uniform(26, 52),
                self.rng.uniform(11, 14),
                angle + self.rng.choice([0, math.pi / 2]),
            )
            if len(placed) < 4 and inside.contains(slab) and all(slab.distance(other) > 16 for other in placed):
                placed.append(slab)
                self.roof(slab, self.choose(roof_gravel=0.7, roof_metal=0.15, roof_slate=0.15), float(self.rng.uniform(10, 21)), gabled=False)
        free = inside.difference(shapely.union_all(placed).buffer(4)) if placed else inside
        for part in sorted(polygons_of(free, 400), key=lambda p: -p.area)[:1]:
            centre = part.representative_point()
            self.car_park(rectangle(centre.x, centre.y, 46, 17, angle).intersection(part), angle)
            self.plant(self.scatter(part, 11.0, 0.3), (2.0, 4.2), 0.15)

    def car_park(self, area: BaseGeometry, angle: float) -> None:
        """Asphalt with rows of cars."""
        for part in polygons_of(area, 60):
            self.add(part, Layer.YARD, LandCover.ROAD, self.choose(asphalt=0.6, asphalt_old=0.4))
            inside = part.buffer(-2.6)
            if inside.is_empty:
                continue
            centre = part.centroid
            _, length, _ = long_axis(part)
            reach = length * 0.75
            u, v = np.meshgrid(np.arange(-reach, reach, 2.5), np.concatenate([np.arange(-reach, reach, 16.0) + side for side in (-2.6, 2.6)]))
            c, s = math.cos(angle), math.sin(angle)
            x, y = (centre.x + u * c - v * s).ravel(), (centre.y + u * s + v * c).ravel()
            parked = shapely.contains_xy(inside, x, y) & (self.rng.random(x.size) < self.rng.uniform(0.35, 0.8))
            for px, py in zip(x[parked], y[parked], strict=True):
                paint = self.choose(paint_white=0.35, paint_dark=0.45, paint_red=0.1, paint_blue=0.1)
                self.add(rectangle(px, py, 4.4, 1.8, angle + math.pi / 2), Layer.CAR, LandCover.ROAD, paint, height=1.5)

    def parking(self, cell: Polygon, angle: float) -> None:
        """A public car park with trees."""
        self.lawn(cell, angle)
        self.car_park(cell.buffer(-3), angle)
        for part in polygons_of(cell.buffer(-5), 50):
            self.plant(self.scatter(part, 18.0, 0.35), (1.8, 3.0))

    def industry(self, cell: Polygon, angle: float) -> None:
        """Sheds, yards and car parks."""
        self.lawn(cell, angle)
        yard = cell.buffer(-4)
        self.add(yard, Layer.LOT, LandCover.ROAD, self.choose(asphalt=0.45, asphalt_old=0.3, concrete=0.15, gravel=0.10))
        placed: list[Polygon] = []
        x0, y0, x1, y1 = cell.bounds
        inside = yard.buffer(-7)
        for attempt in range(26):
            shrink = 1.0 - attempt / 40
            shed = rectangle(self.rng.uniform(x0, x1), self.rng.uniform(y0, y1), self.rng.uniform(32, 95) * shrink, self.rng.uniform(20, 52) * shrink, angle)
            if len(placed) < 4 and inside.contains(shed) and all(shed.distance(other) > 14 for other in placed):
                placed.append(shed)
                self.roof(shed, self.choose(roof_metal=0.45, roof_gravel=0.4, roof_slate=0.15), float(self.rng.uniform(6, 12)), gabled=False)
        free = yard.difference(shapely.union_all(placed).buffer(6)) if placed else yard
        for part in sorted(polygons_of(free, 500), key=lambda p: -p.area)[:1]:
            centre = part.representative_point()
            self.car_park(rectangle(centre.x, centre.y, 70, 33, angle).intersection(part), angle)
        self.alley(cell.buffer(-2).boundary, 9.0, (1.6, 3.2), 0.4)

    def park(self, cell: Polygon, angle: float) -> None:
        """A public park: lawn, trees, a path, sometimes a pond."""
        self.add(cell, Layer.LOT, LandCover.GARDEN, self.choose(lawn=0.7, grass_green=0.3))
        path = self.cut(cell, town=False)
        self.add(path.buffer(1.5, cap_style="flat").intersection(cell), Layer.YARD, LandCover.ROAD, "gravel")
        centre = cell.representative_point()
        pond: BaseGeometry = Polygon()
        if self.rng.random() < 0.4 and cell.area > 3500:
            pond = affinity.scale(Point(centre.x, centre.y).buffer(13), 1.4, 0.8).intersection(cell.buffer(-5))
            self.add(pond, Layer.YARD, LandCover.WATER, "water_clear")
        for part in polygons_of(cell.buffer(-4).difference(path.buffer(3)).difference(pond.buffer(2)), 50):
            self.plant(self.scatter(part, 7.5, self.rng.uniform(0.15, 0.5)), (2.5, 5.0), 0.2)

    def site(self, cell: Polygon, angle: float) -> None:
        """Land laid bare for building."""
        self.add(cell, Layer.LOT, LandCover.BARE_SOIL, self.choose(soil_light=0.8, soil_dark=0.2))
        centre = cell.representative_point()
        self.add(rectangle(centre.x, centre.y, 26, 12, angle).intersection(cell.buffer(-3)), Layer.YARD, LandCover.ROAD, "gravel")

    def sport(self, cell: Polygon, angle: float) -> None:
        """A playing field."""
        self.add(cell, Layer.LOT, LandCover.GARDEN, "grass_green")
        centre = cell.centroid
        field_of_play = rectangle(centre.x, centre.y, 95, 58, angle).intersection(cell.buffer(-3))
        self.add(field_of_play, Layer.YARD, LandCover.GARDEN, "lawn")


def make_landscape(seed: int, size: float, urban: float, gradient: float) -> Landscape:
    """The landscape of a seed on a square domain.

    Args:
        seed: same seed and settings, same landscape.
        size: side of the domain, metres.
        urban: share of the domain that is built up, 0..1.
        gradient: 0 = towns scattered, 1 = a slope from country on one side to town on the other.

    """
    return Builder(seed, size, urban, gradient).build()
