"""Products: what people download, behind one interface: named bands with scale, offset and no-data, and a stack of them."""

from otbsr.products.product import Band, Product, band_name, open_product, stack

__all__ = ["Band", "Product", "band_name", "open_product", "stack"]
