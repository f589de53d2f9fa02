"""What a user decides about super-resolving a product: the options of `apply`, which all that calls it hands on as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from otbsr.errors import ModelError
from otbsr.methods.model_folder import ModelFolder
from otbsr.products import Product, open_product

SIDE = 4096
"""Side of the windows that are kept, input pixels: minutes of work, a start of the application costs a hundredth."""


@dataclass(frozen=True)
class ApplyOptions:
    """How a product is read, what is made of it and with how much of the machine; each is an option of `otbsr apply` of the same name.

    bands, scale: an image's band names in its order and the reflectance of one DN, where the file does not say so itself.
    surface, resampling: as `open_product` and `stack` take them: which of Theia's reflectances, and how coarser bands that do not nest in the
        finest one's grid come onto it ("bilinear", "cubic" ...); by default they are refused.
    against: a second model (P): OUT_disagreement gets how far its result is from the model's, the root mean square over the bands of the
        difference in DN of the model's output, uint16, 65535 where either has no data.
    validity: OUT_validity gets for each pixel, uint8: 0 no data in the input; 1 no data or the image's edge within the model's margin, so
        that filled or mirrored pixels had a say; 2 data wherever the model looks.
    threads: limit of the application's threads. ram: MiB for pixels. window: side of the windows, input pixels, a multiple of 512.
    trust_model: run a model whose sidecar does not list the hashes of its files. A SavedModel is a program: it can read and write files.
    """

    bands: Sequence[str] | None = None
    scale: float | None = None
    surface: str = "FRE"
    resampling: str | None = None
    against: str | Path | None = None
    validity: bool = False
    threads: int | None = None
    ram: int | None = None
    window: int = SIDE
    trust_model: bool = False

    def absolute(self) -> ApplyOptions:
        """The same for machines and processes with another working folder."""
        return self if self.against is None else replace(self, against=Path(self.against).absolute())

    def open_source(self, source: str | Path) -> Product:
        """The product; raises `InputError`."""
        return open_product(source, self.bands, self.scale, self.surface)

    def open_models(self, model: str | Path) -> tuple[ModelFolder, ...]:
        """The model and, if there is one, `against`, with their hashes checked. Raises `ModelError`, also when they cannot be compared."""
        models = tuple(ModelFolder.open(path, self.trust_model) for path in (model, self.against) if path is not None)
        if len(models) > 1:
            require_comparable(*models)
        return models

    def files(self, out: Path) -> dict[str, Path]:
        """What is made, by its key: `disagreement` and `validity` beside `out` where they are wanted, and at last `out`."""
        wanted = {"disagreement": self.against is not None, "validity": self.validity}
        return {**{key: out.with_name(f"{out.stem}_{key}{out.suffix}") for key, one in wanted.items() if one}, "out": out}


def require_comparable(first: ModelFolder, second: ModelFolder) -> None:
    """Raise `ModelError` unless the results of both have the same grid and the same bands, in any order."""
    one, two = first.sidecar, second.sidecar
    if one.factor != two.factor or sorted(one.output.bands) != sorted(two.output.bands):
        given = [f"{side.name} gives {' '.join(side.output.bands)} at x{side.factor}" for side in (one, two)]
        raise ModelError(f"{second.path}: cannot be compared with {first.path}: {', '.join(given)}; choose models of one factor and the same bands")
