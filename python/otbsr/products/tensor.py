"""Tensors that torch.save wrote, read without PyTorch and without running what is in the file: a pickle may hold any program.

Both of PyTorch's formats: zip archives (1.6 and later), and the pickles followed by raw numbers that published weights of before are. Of
a pickle only names, numbers and places of tensors are taken; numbers are read when a tensor is, once its place is known to be inside.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otbsr.errors import InputError

TENSOR_TYPES = {"Short": "<i2", "Int": "<i4", "Long": "<i8", "Float": "<f4", "Double": "<f8", "Byte": "u1", "Half": "<f2"}
SAFETENSOR_TYPES = {"I16": "<i2", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8", "U8": "u1", "F16": "<f2"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the first two pickles of PyTorch's older format hold."""
HEADER = 16 << 20
"""Most bytes of the part of a file that says where tensors are."""
WHOLE = 2 << 30
"""Most bytes of a .npz file's arrays; they may be compressed."""


class Storage(NamedTuple):
    """A run of numbers in a file: its type, its name there, and how many they are."""

    kind: str
    key: str
    length: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * np.dtype(TENSOR_TYPES[self.kind]).itemsize


class Tensor(NamedTuple):
    """Where a tensor is on a storage, as the pickle has it; nothing is checked before its numbers are read."""

    storage: Storage
    offset: int
    size: Sequence[int]
    stride: Sequence[int]


class TensorUnpickler(pickle.Unpickler):
    """Reads what torch.save writes for tensors and state dicts: names, numbers, tuples and storages, and nothing that could run."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        # Made for this file alone, so that a pickle which sets attributes on them changes nothing beyond it.
        ordered = type("Ordered", (dict,), {"__setstate__": lambda self, state: None})
        self.allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor"): lambda *parts: Tensor(*parts[:4]),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: Tensor(*parts[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): lambda *parts: tuple(*parts),
            ("collections", "OrderedDict"): ordered,
            **{("torch", f"{kind}Storage"): kind for kind in TENSOR_TYPES},
        }

    def find_class(self, module: str, name: str) -> Any:
        """The few names that such a pickle uses."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"uses {module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage; the older format says as a sixth part whether it is a piece of another one, which is not read."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[1] not in TENSOR_TYPES or pid[5:] not in ((), (None,)):
            raise pickle.UnpicklingError(f"storage {pid!r}"[:200])
        if not re.fullmatch(r"\w+", str(pid[2])) or not isinstance(pid[4], int) or pid[4] < 0:
            raise pickle.UnpicklingError(f"storage {pid!r}"[:200])
        return Storage(pid[1], str(pid[2]), pid[4])


Content = Callable[[Storage], bytes]
"""Gives the bytes of a storage."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Content]]:
    """(what the file's pickle holds, how to read storages), of a file of torch.save in either format."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                found = [name for name in archive.namelist() if name.endswith("data.pkl")]
                if len(found) != 1:
                    raise InputError(f"{path}: is not a file of torch.save: {len(found)} of its members are called data.pkl, expected 1; fetch it again")
                prefix = found[0].removesuffix("data.pkl")
                content = TensorUnpickler(io.BytesIO(stored(archive, found[0], HEADER))).load()
                yield content, lambda storage: stored(archive, f"{prefix}data/{storage.key}")
        else:
            file.seek(0)
            yield older(file)


def stored(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """A file of the archive, which torch.save does not compress: so that none is larger than the archive itself."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed")
    if most is not None and member.file_size > most:
        raise pickle.UnpicklingError(f"{name} has {member.file_size} bytes, expected {most} at most")
    return archive.read(member)


class Head:
    """The beginning of a file as its pickles may read it: not beyond `HEADER` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def within(self, content: bytes) -> bytes:
        """What was read, if it may be."""
        if self.file.tell() > HEADER:
            raise pickle.UnpicklingError(f"more than {HEADER} bytes before the numbers")
        return content

    def read(self, size: int = -1) -> bytes:
        """So many bytes."""
        return self.within(self.file.read(min(size, HEADER + 1) if size >= 0 else HEADER + 1))

    def readline(self) -> bytes:
        """The rest of a line."""
        return self.within(self.file.readline(HEADER + 1))


def older(file: IO[bytes]) -> tuple[Any, Content]:
    """The same of PyTorch's older format: five pickles, then each storage as the number of its numbers (64 bits) and they themselves."""
    head: Any = Head(file)
    if TensorUnpickler(head).load() != MAGIC or TensorUnpickler(head).load() != PROTOCOL:
        raise pickle.UnpicklingError("another beginning than torch.save's")
    if TensorUnpickler(head).load().get("little_endian") is not True:
        raise pickle.UnpicklingError("written on another kind of processor")
    content, keys = TensorUnpickler(head).load(), TensorUnpickler(head).load()
    begin = file.tell()
    sizes = {tensor.storage.key: tensor.storage for tensor in tensors_of(content).values()}
    places: dict[str, int] = {}
    for key in keys:
        places[key] = begin
        file.seek(begin)
        count = int.from_bytes(file.read(8), "little")
        if key not in sizes:
            raise pickle.UnpicklingError(f"storage {key} is none of a tensor's")
        if count != sizes[key].length:
            raise pickle.UnpicklingError(f"storage of {count} numbers, expected {sizes[key].length}")
        begin += 8 + sizes[key].size
    if begin > file.seek(0, io.SEEK_END):
        raise pickle.UnpicklingError(f"cut: {file.tell()} bytes, expected {begin}")

    def numbers(storage: Storage) -> bytes:
        file.seek(places[storage.key] + 8)
        return file.read(min(storage.size, begin))

    return content, numbers


def tensors_of(content: Any) -> dict[str, Tensor]:
    """Tensors by name of a state dict; the one without a name as ""."""
    if isinstance(content, Tensor):
        return {"": content}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)} if isinstance(content, dict) else {}


def numbers_of(tensor: Tensor, content: Content) -> NDArray[Any]:
    """A tensor's numbers; raises `UnpicklingError` when it would reach outside its storage."""
    storage, offset, size, stride = tensor
    kind = np.dtype(TENSOR_TYPES[storage.kind])
    data = content(storage)
    if len(data) != storage.size:
        raise pickle.UnpicklingError(f"storage of {len(data)} bytes, expected {storage.length} x {kind.itemsize}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if all(size) else offset
    if offset < 0 or min([*size, *stride, 0]) < 0 or last >= max(1, storage.length) or math.prod(size) > max(1, storage.length):
        raise pickle.UnpicklingError(f"tensor {tuple(size)} with strides {tuple(stride)} on {storage.length} numbers")
    numbers = np.frombuffer(data, kind)
    return np.lib.stride_tricks.as_strided(numbers[offset:], tuple(size), tuple(step * kind.itemsize for step in stride), writeable=False)


def read_tensor(path: Path) -> NDArray[Any]:
    """The tensor in a file of torch.save, without PyTorch and without running what is in it.

    Raises `InputError` for anything that is not one tensor of numbers.
    """
    try:
        with opened(path) as (content, storages):
            if not isinstance(content, Tensor):
                raise InputError(f"{path}: holds {'dict' if isinstance(content, dict) else type(content).__name__}, expected one tensor; fetch the file again")
            return numbers_of(content, storages)
    except InputError:
        raise
    except Exception as error:  # a pickle made for mischief raises anything
        raise InputError(f"{path}: cannot be read as one tensor ({type(error).__name__}: {str(error)[:160]}); fetch the file again") from error


def read_tensors(path: Path, wanted: str = "") -> dict[str, NDArray[Any]]:
    """Tensors by name, of those that the regular expression `wanted` fits: a state dict of torch.save (.pth, .pt), .safetensors, or .npz.

    Nothing that is in the file is run. Raises `InputError` for a file that holds no tensors by name, or is damaged.
    """
    readers = {".safetensors": safetensors, ".npz": arrays}
    try:
        return readers.get(path.suffix, state_dict)(path, re.compile(wanted))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as tensors by name ({type(error).__name__}: {str(error)[:160]}); fetch the file again") from error


def state_dict(path: Path, wanted: re.Pattern[str]) -> dict[str, NDArray[Any]]:
    """`read_tensors` of a file of torch.save."""
    with opened(path) as (content, storages):
        found = tensors_of(content)
        if not found or "" in found:
            raise InputError(f"{path}: holds no tensors by name; save a model's state_dict()")
        return {name: numbers_of(tensor, storages) for name, tensor in found.items() if wanted.match(name)}


def safetensors(path: Path, wanted: re.Pattern[str]) -> dict[str, NDArray[Any]]:
    """`read_tensors` of a .safetensors file: the length of a JSON header (64 bits), the header, numbers."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER:
            raise ValueError(f"header of {length} bytes")
        header, found = json.loads(file.read(length)), {}
        for name, entry in header.items():
            if name == "__metadata__" or not wanted.match(name):
                continue
            kind, shape, (begin, end) = np.dtype(SAFETENSOR_TYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
            file.seek(8 + length + begin)
            if min([0, begin, *shape]) < 0 or end - begin != math.prod(shape) * kind.itemsize or 8 + length + end > path.stat().st_size:
                raise ValueError(f"{name}: {shape} at {begin} to {end}")
            found[name] = np.frombuffer(file.read(end - begin), kind).reshape(shape)
    return found


def arrays(path: Path, wanted: re.Pattern[str]) -> dict[str, NDArray[Any]]:
    """`read_tensors` of a .npz file."""
    with zipfile.ZipFile(path) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > WHOLE:
            raise ValueError(f"arrays of {size} bytes, expected {WHOLE} at most")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if wanted.match(name)}
