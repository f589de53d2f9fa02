"""Arms: what the learner sees. Each has a name and a recipe that makes one feature image on the 2.5 m grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otbsr.errors import InputError, UsageError, nearest
from otbsr.evaluation.area import Area
from otbsr.evaluation.recipes import Making, Model, Recipe, parse
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.raster import new_raster

BASELINE = "bicubic-context"
"""What every difference is taken from: an arm must beat what the neighbourhood alone tells."""
ALWAYS = ("bicubic", BASELINE)
ORACLES = ("spot", "spot-10m")


@dataclass(frozen=True)
class Arm:
    """A name, its recipe, and what the report says of it."""

    name: str
    title: str
    recipe: Recipe
    control: bool = False
    oracle: bool = False
    model: str = ""
    hidden: bool = False
    made_of: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> str:
        """native, interpolation, context, unsharp, model, stack, blend, oracle, control, imagefile."""
        return "oracle" if self.oracle else self.recipe.kind


def built_in(f: Path | None, p: Path | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Title and recipe of the arms that have a name, those of missing models left out."""
    arms: dict[str, tuple[str, dict[str, Any]]] = {
        "native": ("Native 10 m (nearest)", {"resample": "nearest"}),
        "bicubic": ("Bicubic to 2.5 m", {"resample": "cubic"}),
        "bicubic-context": ("Bicubic and context features", {"context": "bicubic"}),
        "spot": ("Spot oracle 2.5 m", {"image": "spot_2m5.tif"}),
        "spot-10m": ("Spot seen at 10 m, bicubic", {"degrade": "spot"}),
        "s2-13": ("Sentinel-2, all bands, bicubic", {"resample": "cubic", "all_bands": True}),
    }
    if f:
        arms |= {
            "unsharp": ("Unsharp, spectrum of F", {"sharpen": "bicubic", "like": "f"}),
            "f": ("Method F", {"model": f}),
            "s2-13-f": ("All bands and F", {"stack": ["s2-13", "f"]}),
            "shuffled": ("Control: F's detail, phases shuffled", {"shuffle": "f"}),
            "wrong-date": ("Control: detail of another date", {"other_date": f}),
        }
    if p:
        arms["p"] = ("Method P", {"model": p})
    if f and p:
        arms |= {"f-p": ("F and P stacked", {"stack": ["f", "p"]}), "blend": ("Blend of F and P", {"blend": ["f", "p"]})}
    return arms


def default_arms(areas: Sequence[Area], f: Path | None, p: Path | None) -> list[str]:
    """native, bicubic, bicubic-context, the models' arms, and Spot where every area has it."""
    spot = ["spot"] if all("spot" in area.others for area in areas) else []
    return ["native", "bicubic", BASELINE, *(["f"] if f else []), *(["p"] if p else []), *(["f-p", "blend"] if f and p else []), *spot]


def resolve(names: Sequence[str], own: Mapping[str, Mapping[str, Any]], f: Path | None, p: Path | None) -> list[Arm]:
    """The arms of those names in an order in which each comes after those it is made of; helpers that were not asked for are `hidden`.

    own: recipes of the user. `ALWAYS` are added. Raises `UsageError` for unknown names, verbs and circles.
    """
    known = built_in(f, p)
    for name, recipe in own.items():
        if name in known:
            raise UsageError(f"arm {name} has a meaning already; give your own arm another name")
        if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
            raise UsageError(f"arm '{name}': expected letters, digits, - and _ as a name")
        known[name] = (name, dict(recipe))
    done: dict[str, Arm] = {}

    def add(name: str, hidden: bool, path: tuple[str, ...]) -> None:
        if name in path:
            raise UsageError(f"arm {name} is made of itself: {' -> '.join((*path, name))}; correct its recipe")
        if name in done:
            return
        if name not in known:
            needs = {"p": "--against", "f-p": "--model and --against", "blend": "--model and --against"}
            lacking = f"; {name} needs {needs.get(name, '--model')}" if name in {*needs, "f", "unsharp", "shuffled", "wrong-date", "s2-13-f"} else ""
            raise UsageError(f"no arm is called '{name}'{lacking or nearest(name, known)}; known: {', '.join(known)}")
        title, content = known[name]
        recipe = parse(name, content)
        for source in recipe.sources:
            add(source, source not in wanted, (*path, name))
        model = recipe.model if isinstance(recipe, Model) else None
        label = ModelFolder.open(model, trust=True).sidecar.name if model else ""
        made_of = tuple(dict.fromkeys([*recipe.sources, *(deep for source in recipe.sources for deep in done[source].made_of)]))
        done[name] = Arm(name, f"{title} ({label})" if label else title, recipe, recipe.kind == "control", name in ORACLES, label, hidden, made_of)

    wanted = list(dict.fromkeys([*names, *ALWAYS]))
    for name in wanted:
        add(name, False, ())
    return list(done.values())


def make(arm: Arm, making: Making, out: Path) -> None:
    """Write an arm's image under a temporary name, check it, and give it its name. Raises what the recipe does, and `OutputError`."""
    lacking = arm.recipe.missing(making.area)
    if lacking:
        raise InputError(f"{making.area.path}: arm {arm.name} needs {lacking}; add it, or leave the arm out")
    with new_raster(out, "check the folder's rights and the space left on the disk") as temporary:
        arm.recipe.write(making, temporary)
        making.area.fine.require_same(Grid.read(temporary), f"arm {arm.name} in {making.area.path}")
