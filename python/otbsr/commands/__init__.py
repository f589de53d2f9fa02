"""The commands of `otbsr`, a file per part of the road; `otbsr.cli` puts them together."""
