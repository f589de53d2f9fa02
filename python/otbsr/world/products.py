"""Products in the shape that users download: a Level-2A SAFE, a Theia/MAJA folder, a Spot-6 DIMAP bundle.

Names, folders, encodings and the metadata that readers need are as in the real ones; quality reports and the like are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import transform

from otbsr.grid import Grid
from otbsr.world.clouds import block_mean
from otbsr.world.materials import SENTINEL2_BANDS, SPOT_NANOMETRES
from otbsr.world.sensors import SENTINEL2, quantise

Plane = NDArray[np.float32]

TILE = "T31TCJ"
BASELINE = "05.09"
OFFSET = 1000
"""Added to the numbers of a Level-2A SAFE; its metadata name -1000."""
SOLAR_IRRADIANCE = {"PAN": 1707.0, "B0": 1982.0, "B1": 1826.0, "B2": 1540.0, "B3": 1094.0}
"""W/m2/um outside the atmosphere, rounded, per Spot band."""
CLM_CLOUD, CLM_SHADOW = 1 + 2 + 8, 1 + 32
"""MAJA's cloud mask: bit 0 all clouds and shadows, bit 1 all clouds, bit 3 found by multi-temporal test, bit 5 shadow."""


@dataclass(frozen=True)
class Acquisition:
    """One look of a sensor: measured reflectance per band on its own grid."""

    planes: Mapping[str, Plane]
    grids: Mapping[str, Grid]
    day: int
    sun: tuple[float, float]

    @property
    def date(self) -> date:
        """The day in 2023."""
        return date(2023, 1, 1) + timedelta(days=min(self.day, 365) - 1)


def element(parent: ElementTree.Element, tag: str, text: object = None, **attributes: str) -> ElementTree.Element:
    """A child element with text and attributes."""
    child = ElementTree.SubElement(parent, tag, attributes)
    if text is not None:
        child.text = str(text)
    return child


def save(root: ElementTree.Element, path: Path) -> None:
    """Write indented XML."""
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)


def write(path: Path, planes: list[NDArray[Any]], grid: Grid, **options: Any) -> None:
    """Write planes of one type as GeoTIFF, or lossless JPEG 2000 where the name ends in .jp2."""
    lossless: dict[str, Any] = {"driver": "GTiff", "compress": "deflate"}
    if path.suffix == ".jp2":
        lossless = {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "YES"}
    profile = {
        **lossless,
        "width": grid.width,
        "height": grid.height,
        "count": len(planes),
        "dtype": planes[0].dtype,
        "crs": grid.crs,
        "transform": grid.transform,
    }
    with rasterio.open(path, "w", **{**profile, **options}) as file:
        for index, plane in enumerate(planes, 1):
            file.write(plane, index)


def at_spacing(look: Acquisition, band: str, spacing: int) -> Plane:
    """A band averaged to a coarser spacing, as the processor does for its 20 m and 60 m folders."""
    return block_mean(look.planes[band], round(spacing / SENTINEL2[band].spacing))


def write_safe(folder: Path, look: Acquisition, scene_classes: NDArray[np.uint8]) -> Path:
    """Write a Level-2A SAFE (processing baseline 05.09, numbers = reflectance x 10000 + 1000) into `folder`; returns its path.

    Args:
        folder: where the SAFE folder is made.
        look: all bands but B10 at their own spacing.
        scene_classes: scene classification on the 20 m grid.

    """
    stamp = f"{look.date:%Y%m%d}T105031"
    made = f"{look.date:%Y%m%d}T165000"
    name = f"S2A_MSIL2A_{stamp}_N{BASELINE.replace('.', '')}_R051_{TILE}_{made}.SAFE"
    granule = f"L2A_{TILE}_A042000_{look.date:%Y%m%d}T105320"
    safe = folder / name
    images = safe / "GRANULE" / granule / "IMG_DATA"
    listed: list[str] = []
    grids: dict[int, Grid] = {}
    for spacing in (10, 20, 60):
        where = images / f"R{spacing}m"
        where.mkdir(parents=True)
        grid = next(g for g in look.grids.values() if g.dx == spacing)
        grids[spacing] = grid
        for band in SENTINEL2_BANDS:
            own = SENTINEL2[band].spacing
            # B8 is in the 10 m folder only; B10 sees no ground and is left out of Level-2A.
            if band == "B10" or own > spacing or (band == "B8" and spacing > 10):
                continue
            numbers = quantise(at_spacing(look, band, spacing), OFFSET, 1, 65534).astype(np.uint16)
            code = band if band == "B8A" else f"B{int(band[1:]):02d}"
            file = where / f"{TILE}_{stamp}_{code}_{spacing}m.jp2"
            write(file, [numbers], grid)
            listed.append(file.relative_to(safe).with_suffix("").as_posix())
        natural = [np.clip(np.rint(at_spacing(look, band, spacing) / 0.3 * 255), 1, 255).astype(np.uint8) for band in ("B4", "B3", "B2")]
        write(where / f"{TILE}_{stamp}_TCI_{spacing}m.jp2", natural, grid)
        listed.append((where / f"{TILE}_{stamp}_TCI_{spacing}m").relative_to(safe).as_posix())
    write(images / "R20m" / f"{TILE}_{stamp}_SCL_20m.jp2", [scene_classes], grids[20])
    listed.append((images / "R20m" / f"{TILE}_{stamp}_SCL_20m").relative_to(safe).as_posix())
    save(safe_metadata(name, look, listed), safe / "MTD_MSIL2A.xml")
    save(tile_metadata(look, grids), safe / "GRANULE" / granule / "MTD_TL.xml")
    return safe


def safe_metadata(name: str, look: Acquisition, listed: list[str]) -> ElementTree.Element:
    """MTD_MSIL2A.xml: product, image list, quantification, offsets, bands."""
    space = "https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd"
    ElementTree.register_namespace("n1", space)
    root = ElementTree.Element(f"{{{space}}}Level-2A_User_Product")
    general = element(root, f"{{{space}}}General_Info")
    info = element(general, "Product_Info")
    start = f"{look.date.isoformat()}T10:50:31.024Z"
    element(info, "PRODUCT_START_TIME", start)
    element(info, "PRODUCT_STOP_TIME", start)
    element(info, "PRODUCT_URI", name)
    element(info, "PROCESSING_LEVEL", "Level-2A")
    element(info, "PRODUCT_TYPE", "S2MSI2A")
    element(info, "PROCESSING_BASELINE", BASELINE)
    element(info, "GENERATION_TIME", f"{look.date.isoformat()}T16:50:00.000000Z")
    take = element(info, "Datatake", datatakeIdentifier=f"GS2A_{look.date:%Y%m%d}T105031_042000_N{BASELINE}")
    element(take, "SPACECRAFT_NAME", "Sentinel-2A")
    element(take, "DATATAKE_TYPE", "INS-NOBS")
    element(take, "DATATAKE_SENSING_START", start)
    element(take, "SENSING_ORBIT_NUMBER", 51)
    element(take, "SENSING_ORBIT_DIRECTION", "DESCENDING")
    element(element(info, "Query_Options", completeSingleTile="true"), "PRODUCT_FORMAT", "SAFE_COMPACT")
    granule = element(
        element(element(info, "Product_Organisation"), "Granule_List"),
        "Granule",
        granuleIdentifier=f"S2A_OPER_MSI_L2A_TL_SIMU_{look.date:%Y%m%d}T165000_A042000_{TILE}_N{BASELINE}",
        imageFormat="JPEG2000",
    )
    for file in listed:
        element(granule, "IMAGE_FILE", file)
    image = element(general, "Product_Image_Characteristics")
    for text, index in (("NODATA", 0), ("SATURATED", 65535)):
        special = element(image, "Special_Values")
        element(special, "SPECIAL_VALUE_TEXT", text)
        element(special, "SPECIAL_VALUE_INDEX", index)
    values = element(image, "QUANTIFICATION_VALUES_LIST")
    element(values, "BOA_QUANTIFICATION_VALUE", 10000, unit="none")
    offsets = element(image, "BOA_ADD_OFFSET_VALUES_LIST")
    for index in range(len(SENTINEL2_BANDS)):
        element(offsets, "BOA_ADD_OFFSET", -OFFSET, band_id=str(index))
    spectral = element(image, "Spectral_Information_List")
    for index, band in enumerate(SENTINEL2_BANDS):
        one = element(spectral, "Spectral_Information", bandId=str(index), physicalBand=band)
        element(one, "RESOLUTION", round(SENTINEL2[band].spacing))
    return root


def tile_metadata(look: Acquisition, grids: Mapping[int, Grid]) -> ElementTree.Element:
    """MTD_TL.xml: the grids and the sun."""
    space = "https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd"
    root = ElementTree.Element(f"{{{space}}}Level-2A_Tile_ID")
    general = element(root, f"{{{space}}}General_Info")
    element(general, "TILE_ID", f"S2A_OPER_MSI_L2A_TL_SIMU_{look.date:%Y%m%d}T165000_A042000_{TILE}_N{BASELINE}", metadataLevel="Brief")
    element(general, "SENSING_TIME", f"{look.date.isoformat()}T10:53:20.455Z", metadataLevel="Standard")
    geometric = element(root, f"{{{space}}}Geometric_Info")
    code = element(geometric, "Tile_Geocoding", metadataLevel="Brief")
    element(code, "HORIZONTAL_CS_NAME", "WGS84 / UTM zone 31N")
    element(code, "HORIZONTAL_CS_CODE", "EPSG:32631")
    for spacing, grid in grids.items():
        size = element(code, "Size", resolution=str(spacing))
        element(size, "NROWS", grid.height)
        element(size, "NCOLS", grid.width)
    for spacing, grid in grids.items():
        place = element(code, "Geoposition", resolution=str(spacing))
        for tag, value in (("ULX", round(grid.left)), ("ULY", round(grid.top)), ("XDIM", spacing), ("YDIM", -spacing)):
            element(place, tag, value)
    angles = element(element(geometric, "Tile_Angles", metadataLevel="Standard"), "Mean_Sun_Angle")
    element(angles, "ZENITH_ANGLE", 90 - look.sun[0], unit="deg")
    element(angles, "AZIMUTH_ANGLE", look.sun[1], unit="deg")
    return root


def write_theia(folder: Path, look: Acquisition, mask: NDArray[np.uint8]) -> Path:
    """Write a Theia/MAJA Level-2A folder (FRE, int16, reflectance x 10000, no-data -10000) into `folder`; returns its path.

    `mask` is on the 10 m grid: 0 clear, 1 cloud, 2 cloud shadow; it becomes CLM at 10 m (R1) and 20 m (R2).
    """
    name = f"SENTINEL2A_{look.date:%Y%m%d}-105320-455_L2A_{TILE}_C_V3-1"
    theia = folder / name
    (theia / "MASKS").mkdir(parents=True)
    bands = [band for band in SENTINEL2_BANDS if SENTINEL2[band].spacing < 60]
    root = ElementTree.Element("Muscate_Metadata_Document")
    identity = element(root, "Dataset_Identification")
    element(identity, "IDENTIFIER", name.rsplit("_", 1)[0])
    element(identity, "GEOGRAPHICAL_ZONE", TILE, type="Tile")
    product = element(root, "Product_Characteristics")
    element(product, "PRODUCT_ID", name)
    element(product, "ACQUISITION_DATE", f"{look.date.isoformat()}T10:53:20.455Z")
    element(product, "PRODUCT_LEVEL", "L2A")
    element(product, "PLATFORM", "SENTINEL2A")
    files = element(element(element(element(root, "Product_Organisation"), "Muscate_Product"), "Image_List"), "Image")
    properties = element(files, "Image_Properties")
    element(properties, "NATURE", "Flat_Reflectance")
    element(properties, "FORMAT", "image/tiff")
    element(properties, "ENCODING", "int16")
    listed = element(files, "Image_File_List")
    for band in bands:
        file = theia / f"{name}_FRE_{band}.tif"
        write(file, [quantise(look.planes[band], low=-9999).astype(np.int16)], look.grids[band], nodata=-10000)
        element(listed, "IMAGE_FILE", file.name, band_id=band)
    codes = np.where(mask == 1, CLM_CLOUD, np.where(mask == 2, CLM_SHADOW, 0)).astype(np.uint8)
    height, width = codes.shape
    joined = np.bitwise_or.reduce(codes.reshape(height // 2, 2, width // 2, 2), axis=(1, 3))
    for group, plane, band in (("R1", codes, "B2"), ("R2", joined, "B5")):
        write(theia / "MASKS" / f"{name}_CLM_{group}.tif", [plane], look.grids[band])
        write(theia / "MASKS" / f"{name}_EDG_{group}.tif", [np.zeros_like(plane)], look.grids[band])
    radiometry = element(root, "Radiometric_Informations")
    element(radiometry, "REFLECTANCE_QUANTIFICATION_VALUE", 10000)
    specials = element(radiometry, "Special_Values_List")
    element(specials, "SPECIAL_VALUE", -10000, name="nodata")
    geometry = element(element(root, "Geometric_Informations"), "Mean_Value_List")
    sun = element(geometry, "Sun_Angles")
    element(sun, "ZENITH_ANGLE", 90 - look.sun[0], unit="deg")
    element(sun, "AZIMUTH_ANGLE", look.sun[1], unit="deg")
    save(root, theia / f"{name}_MTD_ALL.xml")
    return theia


def sun_distance(day: int) -> float:
    """Sun-Earth distance in astronomical units on a day of the year, first order in the eccentricity 0.0167."""
    return 1.0 - 0.0167 * math.cos(2 * math.pi * (day - 4) / 365.25)


def write_dimap(folder: Path, look: Acquisition) -> Path:
    """Write PAN (1.5 m) and R, G, B, NIR (6 m) as a Spot-6 DIMAP bundle of ortho images into `folder`; returns its path.

    Numbers are 12 bits: radiance L = number / GAIN + BIAS, reflectance = pi L d^2 / (E sin(sun elevation)). There is no atmosphere in it.
    """
    product = folder / "PROD_SPOT6_001"
    volume = product / "VOL_SPOT6_001_A"
    for kind, bands in (("P", ("PAN",)), ("MS", ("B2", "B1", "B0", "B3"))):
        where = volume / f"IMG_SPOT6_{kind}_001_A"
        where.mkdir(parents=True)
        stem = f"SPOT6_{kind}_{look.date:%Y%m%d}1042000_ORT_SIMULATED"
        grid = look.grids[bands[0]]
        to_radiance = math.sin(math.radians(look.sun[0])) / (math.pi * sun_distance(look.day) ** 2)
        gains = {band: 4000.0 / (SOLAR_IRRADIANCE[band] * to_radiance * 0.8) for band in bands}
        planes = [np.clip(np.rint(look.planes[band] * SOLAR_IRRADIANCE[band] * to_radiance * gains[band]), 1, 4095).astype(np.uint16) for band in bands]
        image = where / f"IMG_{stem}_R1C1.TIF"
        write(image, planes, grid)
        save(dimap_metadata(image.name, look, bands, gains, grid), where / f"DIM_{stem}.XML")
        (where / "MASKS").mkdir()
        save(mask_document("CLOUD", []), where / "MASKS" / f"CLD_{stem}_MSK.GML")
        save(mask_document("ROI", [grid]), where / "MASKS" / f"ROI_{stem}_MSK.GML")
    return product


def mask_document(nature: str, parts: list[Grid]) -> ElementTree.Element:
    """A mask of a DIMAP product in GML: the footprints of some grids as polygons."""
    space = "http://www.opengis.net/gml/3.2"
    ElementTree.register_namespace("gml", space)
    root = ElementTree.Element("Mask")
    for grid in parts:
        feature = element(element(root, f"{{{space}}}featureMember"), "Mask_Feature")
        element(feature, "maskNature", nature)
        polygon = element(element(feature, "extentOf"), f"{{{space}}}Polygon", srsName="urn:ogc:def:crs:EPSG::32631")
        ring = element(element(polygon, f"{{{space}}}exterior"), f"{{{space}}}LinearRing")
        corners = ((grid.left, grid.top), (grid.right, grid.top), (grid.right, grid.bottom), (grid.left, grid.bottom), (grid.left, grid.top))
        element(ring, f"{{{space}}}posList", " ".join(f"{x} {y}" for x, y in corners), srsDimension="2")
    return root


def dimap_metadata(image: str, look: Acquisition, bands: tuple[str, ...], gains: Mapping[str, float], grid: Grid) -> ElementTree.Element:
    """DIM_*.XML: file, grid, calibration in raster order (R, G, B, NIR), sun."""
    root = ElementTree.Element("Dimap_Document")
    identity = element(root, "Metadata_Identification")
    element(identity, "METADATA_FORMAT", "DIMAP", version="2.15")
    element(identity, "METADATA_PROFILE", "S6_ORTHO")
    element(element(root, "Dataset_Identification"), "DATASET_NAME", image.removeprefix("IMG_").removesuffix("_R1C1.TIF"))
    content = element(root, "Dataset_Content")
    extent = element(content, "Dataset_Extent", extent_type="Bounding_Polygon")
    xs, ys = [grid.left, grid.right, grid.right, grid.left], [grid.top, grid.top, grid.bottom, grid.bottom]
    for longitude, latitude in zip(*transform(grid.crs, "EPSG:4326", xs, ys), strict=True):
        vertex = element(extent, "Vertex")
        element(vertex, "LON", longitude)
        element(vertex, "LAT", latitude)
    sources = element(element(element(root, "Dataset_Sources"), "Source_Identification"), "Strip_Source")
    element(sources, "MISSION", "SPOT")
    element(sources, "MISSION_INDEX", 6)
    element(sources, "IMAGING_DATE", look.date.isoformat())
    element(sources, "IMAGING_TIME", "10:42:00.0Z")
    settings = element(element(root, "Processing_Information"), "Product_Settings")
    element(settings, "PROCESSING_LEVEL", "ORTHO")
    element(settings, "SPECTRAL_PROCESSING", "P" if bands == ("PAN",) else "MS")
    element(element(settings, "Radiometric_Settings"), "RADIOMETRIC_PROCESSING", "LINEAR_STRETCH")
    crs = element(element(root, "Coordinate_Reference_System"), "Projected_CRS")
    element(crs, "PROJECTED_CRS_NAME", "WGS 84 / UTM zone 31N")
    element(crs, "PROJECTED_CRS_CODE", "urn:ogc:def:crs:EPSG::32631")
    place = element(element(root, "Geoposition"), "Geoposition_Insert")
    for tag, value in (("ULXMAP", grid.left), ("ULYMAP", grid.top), ("XDIM", grid.dx), ("YDIM", grid.dy)):
        element(place, tag, value)
    raster = element(root, "Raster_Data")
    access = element(raster, "Data_Access")
    element(access, "DATA_FILE_FORMAT", "image/tiff")
    file = element(element(access, "Data_Files"), "Data_File", tile_R="1", tile_C="1")
    element(file, "DATA_FILE_PATH", href=image)
    size = element(raster, "Raster_Dimensions")
    for tag, value in (("NROWS", grid.height), ("NCOLS", grid.width), ("NBANDS", len(bands))):
        element(size, tag, value)
    tiles = element(size, "Tile_Set")
    element(tiles, "NTILES", 1)
    regular = element(tiles, "Regular_Tiling")
    element(regular, "NTILES_SIZE", nrows=str(grid.height), ncols=str(grid.width))
    element(regular, "NTILES_COUNT", ntiles_R="1", ntiles_C="1")
    encoding = element(raster, "Raster_Encoding")
    element(encoding, "DATA_TYPE", "INTEGER")
    element(encoding, "NBITS", 16)
    shown = element(raster, "Raster_Display")
    display = element(shown, "Band_Display_Order")
    for tag, band in zip(("RED_CHANNEL", "GREEN_CHANNEL", "BLUE_CHANNEL", "ALPHA_CHANNEL"), bands if len(bands) > 1 else bands * 3, strict=False):
        element(display, tag, band)
    for text, count in (("NODATA", 0), ("SATURATED", 4095)):
        special = element(shown, "Special_Value")
        element(special, "SPECIAL_VALUE_TEXT", text)
        element(special, "SPECIAL_VALUE_COUNT", count)
    radiometry = element(element(element(root, "Radiometric_Data"), "Radiometric_Calibration"), "Instrument_Calibration")
    measures = element(radiometry, "Band_Measurement_List")
    for band in bands:
        radiance = element(measures, "Band_Radiance")
        element(radiance, "BAND_ID", band)
        element(radiance, "GAIN", gains[band])
        element(radiance, "BIAS", 0)
    for band in bands:
        irradiance = element(measures, "Band_Solar_Irradiance")
        element(irradiance, "BAND_ID", band)
        element(irradiance, "VALUE", SOLAR_IRRADIANCE[band])
    for band in bands:
        spectral = element(measures, "Band_Spectral_Range")
        element(spectral, "BAND_ID", band)
        element(spectral, "MIN", SPOT_NANOMETRES[band][0] / 1000)
        element(spectral, "MAX", SPOT_NANOMETRES[band][1] / 1000)
    located = element(element(element(root, "Geometric_Data"), "Use_Area"), "Located_Geometric_Values")
    element(located, "LOCATION_TYPE", "Center")
    sun = element(located, "Solar_Incidences")
    element(sun, "SUN_AZIMUTH", look.sun[1])
    element(sun, "SUN_ELEVATION", look.sun[0])
    return root


def scene_classification(land_cover: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sen2Cor's classes on a grid: 3 cloud shadow, 4 vegetation, 5 not vegetated, 6 water, 9 cloud.

    `land_cover` are codes of the simulator, `mask` is 0 clear, 1 cloud, 2 shadow.
    """
    codes = np.array([0, 5, 5, 5, 4, 4, 4, 4, 6, 4], np.uint8)[land_cover]
    return np.asarray(np.where(mask == 1, 9, np.where(mask == 2, 3, codes)), np.uint8)
