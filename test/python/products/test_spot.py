"""Spot-6/7 DIMAP: reflectance by BAND_ID, tiles, bundles, sensor geometry, GML masks, and broken products."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.rpc import RPC

from otbsr.errors import GridError, InputError, OtbsrError
from otbsr.grid import Grid
from otbsr.products import open_product, stack

LEFT, TOP = 374040.0, 4830000.0
ORDER = ("B2", "B1", "B0", "B3")
GAIN = {"B0": 8.0, "B1": 9.5, "B2": 11.0, "B3": 13.0, "P": 10.0}
BIAS = {"B0": 1.5, "B1": 0.5, "B2": -0.25, "B3": 0.0, "P": 2.0}
SUN = {"B0": 1982.0, "B1": 1826.0, "B2": 1540.0, "B3": 1094.0, "P": 1707.0}
OURS = {"B0": "blue", "B1": "green", "B2": "red", "B3": "nir", "P": "pan"}
ELEVATION = 52.0
RPCS = RPC(
    height_off=150.0, height_scale=500.0, lat_off=43.6, lat_scale=0.02, line_off=30.0, line_scale=30.0, long_off=1.45, long_scale=0.02, samp_off=20.0,
    samp_scale=20.0, line_num_coeff=[0, 0, -1, *[0] * 17], line_den_coeff=[1, *[0] * 19], samp_num_coeff=[0, 1, *[0] * 18],
    samp_den_coeff=[1, *[0] * 19], err_bias=None, err_rand=None,
)  # fmt: skip


def image(bands: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Counts of 12 bits, none of them 0 or 4095."""
    return np.random.default_rng(seed).integers(1, 4000, (bands, rows, columns)).astype(np.uint16)


def dimap(
    folder: Path, pixels: np.ndarray, kind: str = "MS", spacing: float = 6.0, tiles: tuple[int, int] = (1, 1), jp2: bool = False, sensor: bool = False,
    day: str = "2023-06-14", edit: dict[str, str] | None = None, listed: tuple[str, ...] | None = None, left: float = LEFT,
) -> Path:  # fmt: skip
    """One image of a DIMAP V2 product; returns its DIM_*.XML. edit: texts of the document to replace. listed: order of the calibration."""
    bands = ("P",) if pixels.shape[0] == 1 else ORDER
    where = folder / f"IMG_SPOT6_{kind}_001_A"
    where.mkdir(parents=True)
    stem = f"SPOT6_{kind}_{day.replace('-', '')}1042000_{'SEN' if sensor else 'ORT'}_1"
    rows, columns = pixels.shape[1] // tiles[0], pixels.shape[2] // tiles[1]
    files = []
    for row in range(tiles[0]):
        for column in range(tiles[1]):
            part = pixels[:, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            name = f"IMG_{stem}_R{row + 1}C{column + 1}.{'JP2' if jp2 else 'TIF'}"
            place = {} if sensor else {
                "crs": "EPSG:32631", "transform": Affine(spacing, 0, left + column * columns * spacing, 0, -spacing, TOP - row * rows * spacing),
            }  # fmt: skip
            options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"} if jp2 else {"driver": "GTiff"}
            with rasterio.open(
                where / name, "w", count=part.shape[0], height=part.shape[1], width=part.shape[2], dtype="uint16", **place, **options,
                **({"rpcs": RPCS} if sensor and not jp2 else {}),
            ) as file:  # fmt: skip
                file.write(part)
            files.append(f'<Data_File tile_R="{row + 1}" tile_C="{column + 1}"><DATA_FILE_PATH href="{name}"/></Data_File>')
    calibration = "".join(f"<Band_Radiance><BAND_ID>{b}</BAND_ID><GAIN>{GAIN[b]}</GAIN><BIAS>{BIAS[b]}</BIAS></Band_Radiance>" for b in listed or bands)
    calibration += "".join(f"<Band_Solar_Irradiance><BAND_ID>{b}</BAND_ID><VALUE>{SUN[b]}</VALUE></Band_Solar_Irradiance>" for b in sorted(bands))
    shown = (
        "<RED_CHANNEL>B2</RED_CHANNEL><GREEN_CHANNEL>B1</GREEN_CHANNEL><BLUE_CHANNEL>B0</BLUE_CHANNEL>" if len(bands) > 1 else "<RED_CHANNEL>P</RED_CHANNEL>"
    )
    map_part = (
        "<Coordinate_Reference_System><Projected_CRS><PROJECTED_CRS_CODE>urn:ogc:def:crs:EPSG::32631</PROJECTED_CRS_CODE></Projected_CRS>"
        f"</Coordinate_Reference_System><Geoposition><Geoposition_Insert><ULXMAP>{left}</ULXMAP><ULYMAP>{TOP}</ULYMAP><XDIM>{spacing}</XDIM>"
        f"<YDIM>{spacing}</YDIM></Geoposition_Insert></Geoposition>"
    )
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<Dimap_Document><Metadata_Identification><METADATA_FORMAT version="2.15">DIMAP</METADATA_FORMAT></Metadata_Identification>
<Dataset_Identification><DATASET_NAME>{escape(stem)}</DATASET_NAME></Dataset_Identification>
<Dataset_Content><Dataset_Extent><Vertex><LON>1.44</LON><LAT>43.62</LAT></Vertex><Vertex><LON>1.46</LON><LAT>43.62</LAT></Vertex>
<Vertex><LON>1.46</LON><LAT>43.58</LAT></Vertex><Vertex><LON>1.44</LON><LAT>43.58</LAT></Vertex></Dataset_Extent></Dataset_Content>
<Dataset_Sources><Source_Identification><Strip_Source><MISSION>SPOT</MISSION><MISSION_INDEX>6</MISSION_INDEX><IMAGING_DATE>{day}</IMAGING_DATE>
<IMAGING_TIME>10:42:00.5Z</IMAGING_TIME></Strip_Source></Source_Identification></Dataset_Sources>
<Processing_Information><Product_Settings><PROCESSING_LEVEL>{"SENSOR" if sensor else "ORTHO"}</PROCESSING_LEVEL>
<SPECTRAL_PROCESSING>{kind}</SPECTRAL_PROCESSING><Radiometric_Settings><RADIOMETRIC_PROCESSING>BASIC</RADIOMETRIC_PROCESSING></Radiometric_Settings>
</Product_Settings></Processing_Information>{"" if sensor else map_part}
<Raster_Data><Data_Access><DATA_FILE_FORMAT>image/{"jp2" if jp2 else "tiff"}</DATA_FILE_FORMAT><Data_Files>{"".join(files)}</Data_Files></Data_Access>
<Raster_Dimensions><NROWS>{pixels.shape[1]}</NROWS><NCOLS>{pixels.shape[2]}</NCOLS><NBANDS>{len(bands)}</NBANDS><Tile_Set><NTILES>{len(files)}</NTILES>
<Regular_Tiling><NTILES_SIZE nrows="{rows}" ncols="{columns}"/><NTILES_COUNT ntiles_R="{tiles[0]}" ntiles_C="{tiles[1]}"/><OVERLAP_ROW>0</OVERLAP_ROW>
<OVERLAP_COL>0</OVERLAP_COL></Regular_Tiling></Tile_Set></Raster_Dimensions><Raster_Encoding><DATA_TYPE>INTEGER</DATA_TYPE><NBITS>16</NBITS></Raster_Encoding>
<Raster_Display><Band_Display_Order>{shown}</Band_Display_Order>
<Special_Value><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_COUNT>0</SPECIAL_VALUE_COUNT></Special_Value>
<Special_Value><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_COUNT>4095</SPECIAL_VALUE_COUNT></Special_Value></Raster_Display></Raster_Data>
<Radiometric_Data><Radiometric_Calibration><Instrument_Calibration><Band_Measurement_List>{calibration}</Band_Measurement_List></Instrument_Calibration>
</Radiometric_Calibration></Radiometric_Data>
<Geometric_Data><Use_Area><Located_Geometric_Values><LOCATION_TYPE>Top Center</LOCATION_TYPE><Solar_Incidences><SUN_AZIMUTH>150.0</SUN_AZIMUTH>
<SUN_ELEVATION>20.0</SUN_ELEVATION></Solar_Incidences></Located_Geometric_Values><Located_Geometric_Values><LOCATION_TYPE>Center</LOCATION_TYPE>
<Acquisition_Angles><AZIMUTH_ANGLE>180.5</AZIMUTH_ANGLE><INCIDENCE_ANGLE>12.5</INCIDENCE_ANGLE></Acquisition_Angles><Solar_Incidences>
<SUN_AZIMUTH>151.0</SUN_AZIMUTH><SUN_ELEVATION>{ELEVATION}</SUN_ELEVATION></Solar_Incidences></Located_Geometric_Values></Use_Area></Geometric_Data>
</Dimap_Document>"""
    for old, new in (edit or {}).items():
        assert old in text
        text = text.replace(old, new)
    document = where / f"DIM_{stem}.XML"
    document.write_text(text)
    return document


def gml(path: Path, polygons: list[str], crs: str = "urn:ogc:def:crs:EPSG::32631") -> None:
    """A mask as beside a DIMAP image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = "".join(
        f'<gml:featureMember><Mask_Feature><maskNature>CLOUD</maskNature><extentOf><gml:Polygon srsName="{crs}"><gml:exterior><gml:LinearRing>'
        f'<gml:posList srsDimension="2">{points}</gml:posList></gml:LinearRing></gml:exterior></gml:Polygon></extentOf></Mask_Feature></gml:featureMember>'
        for points in polygons
    )
    path.write_text(f'<Mask xmlns:gml="http://www.opengis.net/gml/3.2">{features}</Mask>')


def expected(band: str, counts: np.ndarray, distance: float, elevation: float = ELEVATION) -> np.ndarray:
    """Top-of-atmosphere reflectance by its definition."""
    return math.pi * (counts / GAIN[band] + BIAS[band]) * distance**2 / (SUN[band] * math.sin(math.radians(elevation)))


@pytest.mark.parametrize(("day", "distance"), [("2023-01-04", 0.98330), ("2023-07-06", 1.01668), ("2023-04-04", 1.00000)])
def test_reflectance_by_band_id_whatever_the_order_of_the_list(tmp_path: Path, day: str, distance: float) -> None:
    """Perihelion, aphelion and the day at one astronomical unit; the calibration's list in another order than the image's bands."""
    counts = image(4, 12, 10)
    product = open_product(dimap(tmp_path, counts, day=day, listed=("B3", "B0", "B2", "B1")))
    assert (product.kind, list(product.bands), product.date.isoformat()) == ("dimap", ["red", "green", "blue", "nir"], day)
    assert product.time.isoformat() == f"{day}T10:42:00.500000+00:00"
    assert (product.angles.sun_elevation, product.angles.sun_azimuth, product.angles.view_zenith, product.angles.view_azimuth) == (52, 151, 12.5, 180.5)
    for index, band in enumerate(ORDER):
        assert np.allclose(product.read([OURS[band]])[0], expected(band, counts[index], distance), rtol=5e-4)
    grid = product.grid(["red"])
    assert grid.same(Grid(LEFT, TOP, 6, 6, 10, 12, rasterio.CRS.from_epsg(32631).to_wkt()))


def test_stack_of_spot_rounds_to_the_working_scale(tmp_path: Path) -> None:
    counts = image(4, 12, 10)
    product = open_product(dimap(tmp_path, counts)).renamed()
    assert list(product.bands) == ["B4", "B3", "B2", "B8"]
    stack(product, ["B4", "B8"], tmp_path / "s.vrt")
    with rasterio.open(tmp_path / "s.vrt") as file:
        assert np.abs(file.read() * 1e-4 - product.read(["B4", "B8"])).max() <= 0.51e-4


@pytest.mark.parametrize("jp2", [False, True])
@pytest.mark.parametrize("tiles", [(1, 1), (2, 3)])
def test_tiles_make_one_image(tmp_path: Path, jp2: bool, tiles: tuple[int, int]) -> None:
    counts = image(4, 128, 192)
    product = open_product(dimap(tmp_path, counts, tiles=tiles, jp2=jp2).parent)
    assert np.allclose(product.read(["nir"])[0], expected("B3", counts[3], 1.0157), rtol=1e-3)
    grid = product.grid(["nir"])
    assert (grid.left, grid.top, grid.dx, grid.width, grid.height) == (LEFT, TOP, 6, 192, 128)


def test_bundle_is_one_product(tmp_path: Path) -> None:
    pan, colours = image(1, 48, 40), image(4, 12, 10, 1)
    volume = tmp_path / "PROD_SPOT6_001" / "VOL_SPOT6_001_A"
    dimap(volume, pan, "P", 1.5)
    dimap(volume, colours, "MS")
    product = open_product(tmp_path / "PROD_SPOT6_001")
    assert set(product.bands) == {"pan", "red", "green", "blue", "nir"}
    planes = product.read(["pan", "red"])
    assert planes.shape == (2, 48, 40)
    assert np.allclose(planes[0], expected("P", pan[0], 1.0157), rtol=1e-3)
    assert np.array_equal(planes[1], product.read(["red"])[0].repeat(4, 0).repeat(4, 1))


def test_raster_index_says_the_order(tmp_path: Path) -> None:
    counts = image(4, 8, 8)
    listed = "".join(f"<Raster_Index><BAND_ID>B{k}</BAND_ID><BAND_INDEX>{k + 1}</BAND_INDEX></Raster_Index>" for k in range(4))
    product = open_product(dimap(tmp_path, counts, edit={"</Data_Files>": f"<Raster_Index_List>{listed}</Raster_Index_List></Data_Files>"}))
    assert np.allclose(product.read(["blue"])[0], expected("B0", counts[0], 1.0157), rtol=1e-3)
    assert np.allclose(product.read(["red"])[0], expected("B2", counts[2], 1.0157), rtol=1e-3)


def test_sensor_geometry_is_read_as_it_is_and_says_so(tmp_path: Path) -> None:
    counts = image(4, 60, 40)
    counts[0, 0, 0], counts[0, 1, 1] = 0, 4095
    document = dimap(tmp_path, counts, sensor=True)
    product = open_product(document)
    assert product.sensor and product.crs == "" and len(product.extent) == 4
    planes = product.read(["red"])
    assert np.isnan(planes[0, 0, 0]) and np.allclose(planes[0, 5:], expected("B2", counts[0, 5:], 1.0157), rtol=1e-3)
    # The RPC puts line 30 - 30 (lat - 43.6) / 0.02 and sample 20 + 20 (lon - 1.45) / 0.02 under a place.
    gml(document.parent / "MASKS" / "CLD_X_MSK.GML", ["43.61 1.44 43.61 1.45 43.60 1.45 43.60 1.44 43.61 1.44"], "urn:ogc:def:crs:EPSG::4326")
    mask = open_product(document).mask(["cloud"])
    assert mask[17:29, 12:19].all()
    assert mask.sum() < 18 * 13
    assert not mask[33:].any() and not mask[:, 23:].any() and not mask[:, :8].any()


def test_masks_of_polygons_and_special_values(tmp_path: Path) -> None:
    counts = image(4, 20, 20)
    counts[:, 0, 0], counts[2, 3, 4] = 0, 4095
    document = dimap(tmp_path, counts)
    x, y = LEFT + 6 * 5, TOP - 6 * 2  # columns 5 to 8, rows 2 to 5
    gml(document.parent / "MASKS" / "CLD_X_MSK.GML", [f"{x + 1} {y - 1} {x + 23} {y - 1} {x + 23} {y - 23} {x + 1} {y - 23} {x + 1} {y - 1}"])
    edge = LEFT + 6 * 18
    gml(document.parent / "MASKS" / "ROI_X_MSK.GML", [f"{LEFT} {TOP} {edge} {TOP} {edge} {TOP - 120} {LEFT} {TOP - 120} {LEFT} {TOP}"])
    product = open_product(document)
    cloud = product.mask(["cloud"])
    assert cloud[2:6, 5:9].all() and cloud.sum() == 16
    empty = product.mask(["nodata"])
    assert empty[:, 18:].all() and empty[0, 0] and empty.sum() == 41
    saturated = product.mask(["saturation"])
    assert saturated[3, 4] and saturated.sum() == 1
    assert not product.mask(["saturation"], ["red"]).any()
    assert np.array_equal(product.mask(), cloud | empty | saturated)
    fine = product.mask(["cloud"], grid=product.grid(["red"]).refined(4))
    # on the fine grid only what the polygon touches: 22 m from 1 m on
    assert fine.shape == (80, 80) and fine[8:24, 20:36].all() and fine.sum() == 256


def test_polygons_in_degrees_are_put_on_the_map(tmp_path: Path) -> None:
    document = dimap(tmp_path, image(4, 50, 50))
    from rasterio.warp import transform

    xs, ys = [LEFT + 60, LEFT + 180, LEFT + 180, LEFT + 60], [TOP - 60, TOP - 60, TOP - 120, TOP - 120]
    lons, lats = transform("EPSG:32631", "EPSG:4326", xs, ys)
    points = " ".join(f"{lat} {lon}" for lon, lat in [*zip(lons, lats, strict=True), (lons[0], lats[0])])
    gml(document.parent / "MASKS" / "CLD_X_MSK.GML", [points], "urn:ogc:def:crs:EPSG::4326")
    mask = open_product(document).mask(["cloud"])
    assert mask[10:20, 10:30].all() and mask[:9].sum() == mask[21:].sum() == mask[:, :9].sum() == mask[:, 31:].sum() == 0


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY c "&a;&a;">]><Dimap_Document>'


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"<RED_CHANNEL>B2</RED_CHANNEL>": "<RED_CHANNEL>B0</RED_CHANNEL>", "<BLUE_CHANNEL>B0</BLUE_CHANNEL>": "<BLUE_CHANNEL>B2</BLUE_CHANNEL>"},
            "order B0, B1, B2",
        ),
        ({"<BAND_ID>B2</BAND_ID><GAIN>11.0</GAIN>": "<BAND_ID>B2</BAND_ID>"}, "calibration of band B2 is gain None"),
        ({"<BAND_ID>B2</BAND_ID><GAIN>11.0</GAIN>": "<BAND_ID>B2</BAND_ID><GAIN>0</GAIN>"}, "gain 0.0"),
        ({"<BAND_ID>B2</BAND_ID><GAIN>": "<BAND_ID>B7</BAND_ID><GAIN>"}, "band B7"),
        ({"<VALUE>1540.0</VALUE>": ""}, "solar irradiance None"),
        ({"SUN_ELEVATION>52.0": "SUN_ELEVATION>-3"}, "sun elevation is"),
        ({"2023-06-14</IMAGING_DATE>": "</IMAGING_DATE>"}, "expected 2023-06-14"),
        ({"_R1C1.TIF": "_R9C9.TIF"}, "R9C9.TIF, which is not there"),
        ({"<NBANDS>4": "<NBANDS>3"}, "NBANDS 3"),
        ({"<Dimap_Document>": BOMB}, "document type or entities"),
        ({"</Dimap_Document>": ""}, "metadata cannot be read"),
    ],
)  # fmt: skip
def test_broken_documents_give_one_message(tmp_path: Path, edit: dict[str, str], message: str) -> None:
    document = dimap(tmp_path, image(4, 8, 8), edit=edit)
    for path in (document, tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            open_product(path)
        assert "\n" not in str(caught.value) and str(document) in str(caught.value)


@pytest.mark.parametrize("jp2", [False, True])
def test_cut_tiles_are_found(tmp_path: Path, jp2: bool) -> None:
    document = dimap(tmp_path, image(4, 128, 128), tiles=(2, 2), jp2=jp2)
    tile = next(document.parent.glob("IMG_*_R1C2.*"))
    tile.write_bytes(tile.read_bytes()[: tile.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=r"R1C2\.\w+: is incomplete"):
        open_product(document).read(["red"])


def test_two_scenes_or_two_geometries_are_refused(tmp_path: Path) -> None:
    dimap(tmp_path / "a", image(4, 8, 8))
    dimap(tmp_path / "b", image(1, 8, 8), "P", 1.5, day="2023-06-16")
    with pytest.raises(InputError, match="were taken at"):
        open_product(tmp_path)
    dimap(tmp_path / "c" / "1", image(4, 8, 8))
    dimap(tmp_path / "c" / "2", image(4, 8, 8), "PMS", 1.5)
    with pytest.raises(InputError, match=r"blue, green, nir, red in several images"):
        open_product(tmp_path / "c")
    dimap(tmp_path / "d" / "1", image(4, 8, 8))
    dimap(tmp_path / "d" / "2", image(1, 8, 8), "P", 1.5, sensor=True)
    with pytest.raises(InputError, match="sensor geometry"):
        open_product(tmp_path / "d")


def test_pan_beside_colours_with_another_corner_needs_a_resampling(tmp_path: Path) -> None:
    """Real bundles may differ by half a pixel of the colours."""
    dimap(tmp_path, image(1, 48, 40), "P", 1.5)
    dimap(tmp_path, image(4, 12, 10), "MS", left=LEFT + 3)
    product = open_product(tmp_path)
    with pytest.raises(GridError, match="different grids"):
        product.read(["pan", "red"])
    planes = product.read(["pan", "red"], resampling="bilinear")
    assert planes.shape == (2, 48, 40) and np.isnan(planes[1, :, :2]).all() and np.isfinite(planes[1, :, 2:]).all()


@pytest.mark.parametrize("value", ["", "nan", "-1", "../../x"])
def test_wrong_values_anywhere_are_one_message_or_harmless(tmp_path: Path, value: str) -> None:
    """Every text and attribute of the document in turn; whatever happens is a number, NaN or an error of ours."""
    document = dimap(tmp_path, image(4, 8, 8))
    gml(document.parent / "MASKS" / "CLD_X_MSK.GML", [f"{LEFT} {TOP} {LEFT + 12} {TOP} {LEFT + 12} {TOP - 12} {LEFT} {TOP - 12} {LEFT} {TOP}"])
    text = document.read_text()
    refused = 0
    places = [match.span(1) for match in re.finditer(r">([^<>\n]+)<", text)] + [match.span(1) for match in re.finditer(r'="([^"]+)"', text.partition("?>")[2])]
    for begin, end in places:
        document.write_text(text[:begin] + value + text[end:])
        try:
            product = open_product(document)
            planes, mask = product.read(["red", "nir"]), product.mask()
            assert planes.dtype == np.float32 and mask.dtype == bool and planes.shape[1:] == mask.shape
        except OtbsrError as error:
            refused += 1
            assert "\n" not in str(error) and ("DIM_SPOT6" in str(error) or "IMG_SPOT6" in str(error))
    assert refused > 10
