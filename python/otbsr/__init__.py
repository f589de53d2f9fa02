"""The package `otbsr`: does super-resolving Sentinel-2 help land-cover mapping, here, with my data."""

__version__ = "0.1.0"
