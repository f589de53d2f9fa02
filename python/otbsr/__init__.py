"""The package `otbsr`: does super-resolving Sentinel-2 help land-cover mapping, here, with my data."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("otbsr")
except PackageNotFoundError:  # run from the sources
    __version__ = "0.1.0"
