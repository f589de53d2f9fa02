"""Files as torch.save writes them, without PyTorch: tensors and state dicts, in its zip format and in the older one."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"int16": "ShortStorage", "float32": "FloatStorage", "int64": "LongStorage"}


class Call:
    """What pickles as a call of a global with arguments, as torch.save writes tensors."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.parts = (module, name, arguments)


class Global:
    """What pickles as a global."""

    def __init__(self, module: str, name: str) -> None:
        self.parts = (module, name)


class Storage:
    """What pickles as a persistent id."""

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


class TorchPickler(pickle._Pickler):  # type: ignore[misc, name-defined]
    """Writes `Call`, `Global` and `Storage` as PyTorch's own pickles have them."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.parts[0]}\n{obj.parts[1]}\n".encode())
        elif isinstance(obj, Call):
            self.save(Global(*obj.parts[:2]))
            self.save(obj.parts[2])
            self.write(pickle.REDUCE)
        elif isinstance(obj, Storage):
            self.save(obj.pid)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def tensor_file(
    path: Path, values: np.ndarray, content: Any = None, data: bytes | None = None, method: int = zipfile.ZIP_STORED, count: int | None = None
) -> Path:
    """A file as torch.save writes one contiguous tensor; content: another object in its place."""
    strides = tuple(step // values.itemsize for step in values.strides)
    storage = Storage(("storage", Global("torch", KINDS[values.dtype.name]), "0", "cpu", values.size if count is None else count))
    default = Call("torch._utils", "_rebuild_tensor_v2", storage, 0, values.shape, strides, False, Call("collections", "OrderedDict"))
    stream = io.BytesIO()
    TorchPickler(stream, 2).dump(default if content is None else content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{path.stem}/data.pkl", stream.getvalue())
        archive.writestr(f"{path.stem}/data/0", values.tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")
    return path


def tensor(values: np.ndarray, key: str, parameter: bool = False, legacy: bool = False) -> Call:
    """A contiguous tensor on a storage of its own, as a pickle has it."""
    pid = ("storage", Global("torch", KINDS[values.dtype.name]), key, "cpu", values.size, *((None,) if legacy else ()))
    strides = tuple(step // values.itemsize for step in values.strides)
    found = Call("torch._utils", "_rebuild_tensor_v2", Storage(pid), 0, values.shape, strides, False, Call("collections", "OrderedDict"))
    return Call("torch._utils", "_rebuild_parameter", found, True, Call("collections", "OrderedDict")) if parameter else found


def pickled(*contents: Any) -> bytes:
    """One pickle after the other."""
    stream = io.BytesIO()
    for content in contents:
        TorchPickler(stream, 2).dump(content)
    return stream.getvalue()


def state_file(path: Path, state: dict[str, np.ndarray], legacy: bool = False, parameter: bool = False) -> Path:
    """A state dict: an OrderedDict of tensors with attributes of its own, in the zip format or in that of before PyTorch 1.6."""
    keys = {name: str(140_000 + number) for number, name in enumerate(state)}
    content = OrderedDict({name: tensor(values, keys[name], parameter, legacy) for name, values in state.items()})
    content._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    path.parent.mkdir(parents=True, exist_ok=True)
    if legacy:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        with path.open("wb") as file:
            file.write(pickled(0x1950A86A20F9469CFC6C, 1001, system, content, sorted(keys.values())))
            for name in sorted(state, key=lambda name: keys[name]):
                file.write(state[name].size.to_bytes(8, "little") + state[name].tobytes())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(content))
        for name, values in state.items():
            archive.writestr(f"archive/data/{keys[name]}", values.tobytes())
    return path
