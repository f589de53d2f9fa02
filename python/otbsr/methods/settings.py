"""Everything that a training run depends on besides its patches, and how it is read from a file and flags."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otbsr.documents import read_document
from otbsr.errors import UsageError, nearest
from otbsr.methods.augmentation import Augmentation
from otbsr.methods.losses import LossWeights
from otbsr.methods.networks import SIZES, NetworkSettings


class AdversarialSettings(BaseModel):
    """The second half of P's training, once fidelity alone has made a start."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(0.02, ge=0, description="weight of the adversarial term after its ramp")
    features: float = Field(0.1, ge=0, description="weight of the distance between the discriminator's features of result and target")
    texture: float = Field(0.1, ge=0, description="weight of the distance between the strengths of texture of result and target, wherever it lies")
    pattern: float = Field(
        2.0, ge=0, description="weight of what the result has more than the target at one place within every input pixel: a pattern of the grid"
    )
    start: float = Field(0.3, ge=0, le=1, description="share of the run after which the adversarial terms begin")
    ramp: float = Field(0.2, gt=0, le=1, description="share of the run over which they rise")
    relativistic: bool = Field(True, description="relativistic average least squares; false: plain least squares")
    channels: int = Field(32, ge=4, description="features of the discriminator's first layer")
    rate: float = Field(2e-4, gt=0, description="learning rate of the discriminator")
    perceptual: str = Field("", description="weights file of keras.applications' VGG19 without top, to add its features' distance on R, G, B")


class TrainingSettings(BaseModel):
    """Everything that a training run depends on besides its patches."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    network: NetworkSettings = NetworkSettings()
    loss: LossWeights = LossWeights()
    augmentation: Augmentation = Augmentation()
    seed: int = Field(0, ge=0, lt=2**32, description="of every random number")
    steps: int = Field(10000, ge=1)
    minutes: float | None = Field(None, gt=0, description="time budget; the run ends at whichever of steps and minutes comes first")
    batch: int = Field(16, ge=1)
    rate: float = Field(1e-3, gt=0, description="highest learning rate (Adam), after the warm-up")
    final_rate: float = Field(1e-6, ge=0, description="learning rate at the end of the cosine")
    warmup: int = Field(200, ge=0, description="steps over which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="greatest norm of the gradient")
    adversarial: AdversarialSettings | None = Field(None, description="given: a perceptual method (P); not: a fidelity method (F)")
    average: float = Field(0.999, ge=0, lt=1, description="decay of the moving average of weights, which is what is validated and exported")
    patience: int = Field(0, ge=0, description="validations without a better score after which an F stops; 0: never")
    mixed_precision: bool = Field(False, description="16-bit computation: faster on GPUs, slower on most processors")
    border: int = Field(6, ge=0, description="input pixels at each side of a patch left out of loss and scores: zero padding spoils them")
    validate_every: int = Field(1000, ge=1, description="steps between validations and checkpoints")


FLAGS = {
    "network.bands": "--bands",
    "network.outputs": "--outputs",
    "network.factor": "--factor",
    "batch": "--batch",
    "rate": "--rate",
    "patience": "--patience",
    "steps": "--steps",
    "minutes": "--minutes",
    "seed": "--seed",
}
"""Settings that `otbsr train` has a flag for."""


def read_settings(
    path: Path | None = None,
    *,
    method: str | None = None,
    size: str | None = None,
    factor: int | None = None,
    bands: Sequence[str] = (),
    outputs: Sequence[str] = (),
    pairs: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainingSettings:
    """Settings from a YAML or JSON file (or the defaults), replaced by what else is given and not None; raises `UsageError`.

    method: fidelity (no adversarial terms, whatever the file says) or perceptual (those of the file, else the defaults; body residual unless the
    file names one). size: tiny, light or base instead of the file's channels and blocks. pairs: manifest of the pairs, whose factor and bands
    count where nobody says otherwise. options: top-level settings.
    """
    values = read_document(path, "YAML or JSON like the settings in any model.json") if path else {}
    if values is None:
        values = {}  # an empty file
    if not isinstance(values, dict):
        raise UsageError(f"{path}: holds {type(values).__name__}, expected keys and values, like the settings in any model.json")
    if method not in (None, "fidelity", "perceptual"):
        raise UsageError(f"--method {method}{nearest(method, ['fidelity', 'perceptual'])}: expected fidelity or perceptual")
    if size is not None and size not in SIZES:
        raise UsageError(f"--size {size}{nearest(size, SIZES)}: expected one of {', '.join(SIZES)}")
    net = values.get("network", {})
    if isinstance(net, dict):
        net = dict(net)
        if size is not None:
            net = {key: value for key, value in net.items() if key not in ("channels", "blocks")} | {"size": size}
        if method == "perceptual":
            net = {"body": "residual"} | net
        net = {key: pairs[key] for key in ("factor", "bands") if pairs} | net
        net |= {key: value for key, value in (("factor", factor), ("bands", tuple(bands)), ("outputs", tuple(outputs))) if value}
        if pairs and "outputs" not in net and tuple(pairs.get("outputs", pairs["bands"])) != tuple(pairs["bands"]):
            net["outputs"] = tuple(band for band in pairs["outputs"] if band in net["bands"])
        values = values | {"network": net}
    if method is not None:
        values = values | {"adversarial": None if method == "fidelity" else values.get("adversarial") or {}}
    options = {key: value for key, value in options.items() if value is not None}
    given = {*options, *(f"network.{key}" for key, value in (("factor", factor), ("bands", bands), ("outputs", outputs)) if value)}
    try:
        settings = TrainingSettings.model_validate(values | options)
    except ValidationError as error:
        raise refusal(error, path, given) from error
    if settings.adversarial and settings.patience and "patience" in given:
        raise UsageError(f"--patience {settings.patience}: stops a run whose score no longer grows, but a perceptual method's score falls; leave it out")
    return settings


def refusal(error: ValidationError, path: Path | None = None, flags: Collection[str] = ()) -> UsageError:
    """The error that says in one line which setting, or which flag, has which wrong value."""
    first = error.errors()[0]
    key, text = ".".join(str(p) for p in first["loc"]), first["msg"].removeprefix("Value error, ")
    text = f"{text[:1].lower()}{text[1:]}"
    if first["type"] == "extra_forbidden":
        known = settings_of(first["loc"][:-1])
        return UsageError(f"{path or 'settings'}: {key}: no such setting{nearest(str(first['loc'][-1]), known)}; expected one of {', '.join(known)}")
    if first["type"] == "model_type":
        return UsageError(f"{path or 'settings'}: {key}: is {first['input']!r}, expected keys and values ({', '.join(settings_of(first['loc']))})")
    if key in flags and key in FLAGS:
        return UsageError(f"{FLAGS[key]} {first['input']}: {text}")
    if f"network.{text.split()[0]}" in flags and key == "network":
        return UsageError(f"--{text}")
    value = "" if isinstance(first["input"], dict) else f" {first['input']!r}:"
    return UsageError(f"{path or 'settings'}: {key}:{value} {text}; correct the setting")


def settings_of(place: Sequence[int | str]) -> list[str]:
    """Names of the settings below a place in `TrainingSettings`: () for its own."""
    model: Any = TrainingSettings
    for key in place:
        kind = model.model_fields[str(key)].annotation
        model = next((one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)), BaseModel)
    return [*(["size"] if model is NetworkSettings else []), *model.model_fields]
