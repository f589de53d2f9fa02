"""The package `otbsr`: does super-resolving Sentinel-2 help land-cover mapping, here, with my data."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, looked up when asked for: reading the metadata took a tenth of a command's start."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("otbsr")
        except PackageNotFoundError:  # run from the sources
            found = "0.1.0"
        return globals().setdefault("__version__", found)
