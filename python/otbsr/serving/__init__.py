"""Serving: OTB's applications, run and checked; super-resolution of whole products."""
