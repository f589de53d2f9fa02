"""Many products by one command: which they are, what each result is called, which are finished, and what is said when some fail."""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from otbsr.errors import InputError, OtbsrError, OutputError, UsageError
from otbsr.progress import Report, silent
from otbsr.serving.apply import RUN_TAG, STEP, Applied, Run, apply, make_here, run_key
from otbsr.serving.options import ApplyOptions

SUFFIXES = (".SAFE", ".zip", ".tar", ".tgz", ".gz", ".tif", ".tiff", ".vrt", ".jp2", ".xml")
NAME = "{name}"
"""Stands for a product's name in the pattern of the results' paths."""


@dataclass
class Batch:
    """What came of many products: results, products that were finished before, and the error of each that failed."""

    done: list[Applied] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, OtbsrError] = field(default_factory=dict)

    def require_success(self) -> None:
        """Raise an error of the class of the first failure, which counts them, when a product failed."""
        if self.failed:
            count, first = len(self.failed), next(iter(self.failed.values()))
            total = count + len(self.done) + len(self.skipped)
            kind = type(first) if type(first).__init__ is Exception.__init__ else OtbsrError
            raise kind(f"{count} of {total} products failed (listed above); mend what is said there, and the same command goes on")


def find_products(given: Sequence[str | Path], listed: str | Path | None = None) -> list[Path]:
    """The products that arguments (paths, or glob patterns such as 'tiles/*.SAFE') and a list file (one a line, # begins a remark) name.

    Relative paths in the list are relative to its folder. Each product once. Raises `InputError` for a pattern that nothing fits, an
    unreadable list, or no product at all.
    """
    words: list[Path] = [Path(word) for word in given]
    if listed is not None:
        listed = Path(listed)
        try:
            lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{listed}: cannot be read ({error}); give a text file with one product a line") from error
        words += [listed.parent / line for line in lines if line and not line.startswith("#")]
    found: list[Path] = []
    for word in words:
        if word.exists() or not glob.has_magic(str(word)):
            found.append(word)
        else:
            matches = sorted(glob.glob(str(word)))
            if not matches:
                raise InputError(f"{word}: no file or folder fits this pattern")
            found += map(Path, matches)
    if not found:
        raise InputError("no product is given; name products, or a list of them with --list")
    return list(dict.fromkeys(found))


def outputs(products: Sequence[Path], out: str | Path) -> list[Path]:
    """The path of each product's result: `out` with {name} in it, or `out` / {name}.tif. Makes the folder; raises `UsageError`, `OutputError`."""
    pattern = str(out) if NAME in str(out) else str(Path(out) / f"{NAME}.tif")
    if NAME not in str(out) and Path(out).suffix.lower() in (".tif", ".tiff", ".vrt"):
        raise UsageError(f"{out}: is one file for {len(products)} products; give a folder, or a path with {NAME} such as results/{NAME}_2m5.vrt")
    if NAME in str(Path(pattern).parent):
        raise UsageError(f"{out}: {NAME} stands in a folder's name; expected it in the file's name only")
    paths = [Path(pattern.replace(NAME, name_of(product))) for product in products]
    taken: dict[Path, Path] = {}
    for product, path in zip(products, paths, strict=True):
        if path in taken:
            raise UsageError(f"{taken[path]} and {product} would both become {path}; give products of different names, or run them apart")
        taken[path] = product
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{paths[0].parent}: cannot be made ({error.strerror}); choose another folder") from error
    return paths


def name_of(product: Path) -> str:
    """A product's name: that of its file or folder, without what says how it is packed."""
    name = product.absolute().name
    while Path(name).suffix in SUFFIXES:
        name = Path(name).stem
    return name


def apply_all(
    products: Sequence[Path],
    model: str | Path,
    outs: Sequence[Path],
    options: ApplyOptions | None = None,
    *,
    at_once: int = 1,
    run_for: Callable[[int], Run] | None = None,
    stop: threading.Event | None = None,
    report: Report = silent,
    failure: Callable[[Path, OtbsrError], None] = lambda _product, _error: None,
    overwrite: bool = False,
) -> Batch:
    """Super-resolve `products` into `outs`; one that fails does not keep the others.

    A result that exists is left as it is when it was made of the same product by the same models with the same options; another one is an
    error, unless `overwrite`. at_once: products worked on side by side, in threads. run_for: how the windows of the product of a number are
    made. stop: is set when this call is interrupted. failure: told of each failure when it happens.
    """
    stop, chosen = stop or threading.Event(), options or ApplyOptions()
    batch, lock, shares = Batch(), threading.Lock(), [0.0] * len(products)

    def progress(number: int) -> Report:
        def told(step: str, share: float) -> None:
            with lock:
                shares[number] = max(shares[number], 0.95 * share if step == STEP else 0.95 + 0.05 * share if step == "writing" else 0.0)
                ended = len(batch.done) + len(batch.skipped) + len(batch.failed)
                report(f"products: {ended} of {len(products)} finished", sum(shares) / len(shares))

        return told

    def one(number: int) -> None:
        product, out = products[number], outs[number]
        if stop.is_set():
            return
        try:
            if not overwrite and is_finished(out, product, model, chosen):
                with lock:
                    batch.skipped.append(out)
            else:
                run = run_for(number) if run_for else make_here
                done = apply(product, model, out, options=chosen, overwrite=overwrite, report=progress(number), run=run)
                with lock:
                    batch.done.append(done)
        except OtbsrError as error:
            if stop.is_set():
                return
            with lock:
                batch.failed[product] = error
            failure(product, error)
        progress(number)("writing", 1.0)

    if at_once == 1:  # in this thread, where an interrupt ends what runs
        for number in range(len(products)):
            one(number)
        return batch
    with ThreadPoolExecutor(at_once) as pool:
        waiting: set[Future[None]] = {pool.submit(one, number) for number in range(len(products))}
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return batch


def is_finished(out: Path, product: Path, model: str | Path, options: ApplyOptions) -> bool:
    """Whether `out` and the files beside it were made of this product by these models with these options."""
    if not out.exists():
        return False
    key = run_key(product, model, options)
    return all(tag_of(path) == key for path in options.files(out).values())


def tag_of(path: Path) -> str | None:
    """The tag of a product that says what it was made of; None where there is none."""
    try:
        with rasterio.open(path) as dataset:
            found = dataset.tags().get(RUN_TAG)
            return str(found) if found else None
    except (RasterioError, OSError):
        return None
