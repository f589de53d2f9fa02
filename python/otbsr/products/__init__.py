"""Products: what people download, behind one interface: named bands in reflectance, masks, date, angles, and a stack of them."""

from otbsr.products.layers import KINDS, Layer
from otbsr.products.product import SENTINEL2_NAMES, Angles, Band, Product, band_name, open_product, stack

__all__ = ["KINDS", "SENTINEL2_NAMES", "Angles", "Band", "Layer", "Product", "band_name", "open_product", "stack"]
