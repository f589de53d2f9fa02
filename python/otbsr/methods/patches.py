"""The pairs of patches that a network is trained on, from the folders that `otbsr pairs` wrote, and the order in which they are drawn."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from otbsr.errors import InputError, UsageError
from otbsr.pairs.footprints import image_footprints, require_apart

Array = NDArray[np.float32]

NO_PAIR = "expected at least one: run `otbsr pairs` with another --valid or a smaller --block, or add a folder that has some"
OPEN_FILES = 128
"""Patches images of one kind that are open at a time."""


class StackedPatches:
    """Patches [n, p, p, bands], float32, in patches images (patches stacked along rows) of any number, read from the files when they are asked for.

    Behaves as an array does under `len`, `shape`, a slice or an array of indices along the first axis; what is in memory does not grow with n.
    """

    def __init__(self, paths: Sequence[Path], bands: Sequence[int] | None = None) -> None:
        """bands: indices of those to read, in order; None: all. Raises `InputError` for files that hold no such patches."""
        self.paths, counts, found = list(paths), [], []
        for path in self.paths:
            try:
                with rasterio.open(path) as dataset:
                    found.append((dataset.width, dataset.count))
                    counts.append(dataset.height // dataset.width)
                    if dataset.height % dataset.width:
                        raise InputError(f"{path}: {dataset.height} rows, expected a multiple of the patches' {dataset.width}: run `otbsr pairs` again")
            except rasterio.RasterioIOError as error:
                raise InputError(f"{path}: cannot be read as a patches image ({error}); run `otbsr pairs` again") from error
            if found[-1] != found[0]:
                raise InputError(
                    f"{path}: patches of {found[-1][0]} pixels and {found[-1][1]} bands, {self.paths[0]} has {found[0][0]} and {found[0][1]}: "
                    "train on pairs of one kind"
                )
        self.ends = np.cumsum(counts)
        side, count = found[0]
        self.bands = list(range(count)) if bands is None else list(bands)
        self.shape = (int(self.ends[-1]), side, side, len(self.bands))
        self.opened: OrderedDict[Path, Any] = OrderedDict()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Sequence[int] | NDArray[np.int64]) -> Array:
        """The patches of a slice or of these indices, in that order."""
        indices = np.arange(len(self))[which]
        result = np.empty((len(indices), *self.shape[1:]), np.float32)
        side = self.shape[1]
        for place in np.argsort(indices, kind="stable"):  # in the files' order
            path, number = self.file_of(int(indices[place]))
            try:
                pixels = self.dataset(path).read([band + 1 for band in self.bands], window=Window(0, number * side, side, side))
            except rasterio.errors.RasterioError as error:
                raise InputError(f"{path}: patch {number} cannot be read ({error}); run `otbsr pairs` again") from error
            result[place] = pixels.transpose(1, 2, 0)
        return result

    def file_of(self, index: int) -> tuple[Path, int]:
        """The file that holds a patch, and its number there, from 0."""
        file = int(np.searchsorted(self.ends, index, side="right"))
        return self.paths[file], index - (int(self.ends[file - 1]) if file else 0)

    def place(self, index: int) -> str:
        """Where a patch is, in words."""
        path, number = self.file_of(index)
        return f"{path}: patch {number}, rows {number * self.shape[1]} to {(number + 1) * self.shape[1] - 1}"

    def dataset(self, path: Path) -> Any:
        """The open file; the one used least recently is closed when there are too many."""
        if path not in self.opened:
            while len(self.opened) >= OPEN_FILES:
                self.opened.popitem(last=False)[1].close()
            try:
                self.opened[path] = rasterio.open(path)
            except rasterio.RasterioIOError as error:
                raise InputError(f"{path}: is gone or cannot be read ({error}); run `otbsr pairs` again") from error
        self.opened.move_to_end(path)
        return self.opened[path]

    def select(self, bands: Sequence[int]) -> StackedPatches:
        """The same patches with the bands of these indices only."""
        return StackedPatches(self.paths, [self.bands[index] for index in bands])


@dataclass(frozen=True)
class Patches:
    """Pairs of patches, in memory or in files: lr [n, p, p, bands] and target [n, factor p, factor p, bands], float32 DN."""

    lr: Array | StackedPatches
    target: Array | StackedPatches

    def __len__(self) -> int:
        return len(self.lr)

    @property
    def factor(self) -> int:
        """Target pixels per input pixel along a side."""
        return int(self.target.shape[1]) // int(self.lr.shape[1])

    def select(self, lr: Sequence[int], target: Sequence[int]) -> Patches:
        """The same pairs with the bands of these indices only."""

        def of(part: Array | StackedPatches, bands: Sequence[int]) -> Array | StackedPatches:
            if list(bands) == list(range(part.shape[-1])):
                return part
            return part.select(bands) if isinstance(part, StackedPatches) else np.ascontiguousarray(part[..., list(bands)])

        return Patches(of(self.lr, lr), of(self.target, target))

    def require_numbers(self, indices: Sequence[int] | NDArray[np.int64]) -> None:
        """Raise `InputError` naming the first pair among these that holds NaN or infinite values."""
        for index in indices:
            for kind, part in (("input", self.lr), ("target", self.target)):
                if not np.isfinite(part[[int(index)]]).all():
                    place = part.place(int(index)) if isinstance(part, StackedPatches) else f"pair {int(index)}"
                    raise InputError(
                        f"{place}: the {kind} patch holds values that are no numbers; leave it out: run `otbsr pairs` again on images that declare "
                        "their no-data value"
                    )

    def hash(self) -> str:
        """SHA-256 over the pixels: names the split that a model was trained on."""
        state = hashlib.sha256()
        for part in (self.lr, self.target):
            for first in range(0, len(part), 64):
                state.update(np.ascontiguousarray(part[first : first + 64], np.float32).data)
        return state.hexdigest()


def read_patches(lr: Sequence[Path], target: Sequence[Path]) -> Patches:
    """The patches images that PatchesExtraction wrote, in order, as pairs that are read when they are used; raises `InputError`."""
    if not lr or len(lr) != len(target):
        raise InputError(f"{len(lr)} input and {len(target)} target patches images; expected one target for each input: run `otbsr pairs` again")
    for path in (*lr, *target):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such patches image; run `otbsr pairs` again")
    patches = Patches(StackedPatches(lr), StackedPatches(target))
    rows, fine = patches.lr.shape[1], patches.target.shape[1]
    if fine % rows:
        raise InputError(f"target patches of {fine} pixels are no whole multiple of input patches of {rows}: run `otbsr pairs` again")
    if len(patches.lr) != len(patches.target):
        raise InputError(f"{len(patches.lr)} input and {len(patches.target)} target patches; expected as many: run `otbsr pairs` again")
    return patches


def read_manifests(folders: Sequence[str | Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Folders that `otbsr pairs` wrote with their manifests, all of one kind; raises `InputError`, `UsageError`."""
    manifests = []
    for folder in map(Path, folders):
        try:
            manifests.append((folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no readable manifest.json ({error}); expected a folder that `otbsr pairs` wrote") from error
    if not manifests:
        raise UsageError("no folder of pairs given; expected at least one that `otbsr pairs` wrote")
    first = manifests[0][1]
    for folder, manifest in manifests:
        manifest.setdefault("outputs", manifest.get("bands"))
        for key in ("bands", "outputs", "spacing", "factor", "patch"):
            if key not in manifest:
                raise InputError(f"{folder}: manifest.json has no {key}; expected a folder that `otbsr pairs` wrote")
            if manifest[key] != first[key]:
                raise InputError(f"{folder}: {key} is {manifest[key]}, {manifests[0][0]} has {first[key]}; train on pairs of one kind")
    return manifests


def read_pairs(folders: Sequence[str | Path]) -> tuple[Patches, Patches, dict[str, Any]]:
    """Training and validation patches of the folders that `otbsr pairs` wrote, and `train`'s arguments bands, targets, spacing, data, seeds, footprints."""
    manifests = read_manifests(folders)
    for split, kind in (("train", "training"), ("valid", "validation")):
        if not any(manifest["splits"][split]["accepted"] for _, manifest in manifests):
            raise UsageError(f"no {kind} pair in {', '.join(str(folder) for folder, _ in manifests[:3])}; {NO_PAIR}")
    require_apart(manifests)
    first = manifests[0][1]

    def images(split: str, key: str) -> Iterator[Path]:
        for folder, manifest in manifests:
            if manifest["splits"][split]["accepted"]:
                yield folder / manifest["splits"][split][key]

    data = "; ".join(sorted({manifest["data"] for _, manifest in manifests} - {""}))
    seeds = [manifest["seed"] for _, manifest in manifests if manifest["seed"] is not None]
    return (
        read_patches(list(images("train", "lr")), list(images("train", "target"))),
        read_patches(list(images("valid", "lr")), list(images("valid", "target"))),
        {
            "bands": first["bands"],
            "targets": first["outputs"],
            "spacing": first["spacing"],
            "data": data,
            "seeds": seeds,
            "footprints": image_footprints([manifest for _, manifest in manifests]),
        },
    )


def batch_indices(size: int, batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Indices of the pairs in step's batch: every pair once per epoch in a random order, a short last batch left out."""
    batch = min(batch, size)
    per_epoch = size // batch
    order = np.random.default_rng([seed, 1, step // per_epoch]).permutation(size)
    first = (step % per_epoch) * batch
    return order[first : first + batch]
