"""OTBTF's Python API for Keras 3: read the patches images of OTB's PatchesExtraction, train, and export what TensorflowModelServe runs.

This is otbsr's own implementation of the public interface of OTBTF (`otbtf.DatasetFromPatchesImages`, `otbtf.TFRecords`,
`otbtf.ModelBase`, ...), for systems where upstream's package is not installed.
"""

from otbtf import layers, ops, symbolic
from otbtf.dataset import (
    Dataset,
    DatasetFromPatchesImages,
    IteratorBase,
    PatchesImagesReader,
    PatchesReaderBase,
    RandomIterator,
)
from otbtf.model import ModelBase
from otbtf.tfrecords import TFRecords
from otbtf.utils import gdal_open, read_as_np_arr

symbolic.enable()

__version__ = "0.1.0"
__provider__ = "otbsr"
"""Tells this implementation from upstream's, which has no such attribute."""

__all__ = [
    "Dataset",
    "DatasetFromPatchesImages",
    "IteratorBase",
    "ModelBase",
    "PatchesImagesReader",
    "PatchesReaderBase",
    "RandomIterator",
    "TFRecords",
    "gdal_open",
    "layers",
    "ops",
    "read_as_np_arr",
]
