"""Tensors that torch.save wrote, read without PyTorch and without running what is in the file: a pickle may hold any program."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otbsr.errors import InputError

TENSOR_TYPES = {"Short": "<i2", "Int": "<i4", "Long": "<i8", "Float": "<f4", "Double": "<f8", "Byte": "u1", "Half": "<f2"}


class TensorUnpickler(pickle.Unpickler):
    """Reads what torch.save writes for one tensor: numbers, tuples and storages, and nothing that could run."""

    def __init__(self, stream: io.BytesIO, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(stream)
        self.archive, self.prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a tensor's pickle uses."""
        allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): rebuilt,
            ("collections", "OrderedDict"): dict,
            **{("torch", f"{kind}Storage"): kind for kind in TENSOR_TYPES},
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"uses {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """A storage: the numbers in the archive's data folder."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or pid[1] not in TENSOR_TYPES or not re.fullmatch(r"\w+", str(pid[2])):
            raise pickle.UnpicklingError(f"storage {pid!r}"[:200])
        content = stored(self.archive, f"{self.prefix}data/{pid[2]}")
        kind = np.dtype(TENSOR_TYPES[pid[1]])
        if len(content) != int(pid[4]) * kind.itemsize:
            raise pickle.UnpicklingError(f"storage of {len(content)} bytes, expected {pid[4]} x {kind.itemsize}")
        return np.frombuffer(content, kind)


def stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive, which torch.save does not compress: so that none is larger than the archive itself."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed")
    return archive.read(member)


def rebuilt(storage: NDArray[Any], offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> NDArray[Any]:
    """A tensor on a storage; raises `UnpicklingError` when it would reach outside."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if all(size) else offset
    if offset < 0 or min([*size, *stride, 0]) < 0 or last >= max(1, len(storage)):
        raise pickle.UnpicklingError(f"tensor {tuple(size)} with strides {tuple(stride)} on {len(storage)} numbers")
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), tuple(step * storage.itemsize for step in stride), writeable=False)


def read_tensor(path: Path) -> NDArray[Any]:
    """The tensor in a file of torch.save (zip format, PyTorch 1.6 and later), without PyTorch and without running what is in it.

    Raises `InputError` for anything that is not one tensor of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(found) != 1:
                raise InputError(f"{path}: is not a tensor of torch.save in zip format; save it again with PyTorch 1.6 or later")
            tensor = TensorUnpickler(io.BytesIO(stored(archive, found[0])), archive, found[0].removesuffix("data.pkl")).load()
    except InputError:
        raise
    except Exception as error:  # a pickle made for mischief raises anything
        raise InputError(f"{path}: cannot be read as one tensor ({type(error).__name__}: {str(error)[:160]}); fetch the file again") from error
    if not isinstance(tensor, np.ndarray):
        raise InputError(f"{path}: holds {type(tensor).__name__}, expected one tensor; fetch the file again")
    return tensor
