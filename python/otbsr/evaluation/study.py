"""The study: the same learner on the same samples in every arm, each block mapped by a learner that did not see it.

Writes images, maps and maps.json; what they say is read by `evaluate` and `write_report`. Every image and map is a unit of work with a
key of all that decides it: a finished unit with the same key is kept, so the same command goes on after any interruption.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from otbsr.documents import read_document
from otbsr.errors import InputError, ProcessingError, UsageError, flaw, nearest
from otbsr.evaluation import learners
from otbsr.evaluation.area import INPUT, LAND_COVER, LEGEND, POLYGONS, Area, burn, open_areas
from otbsr.evaluation.arms import BASELINE, Arm, default_arms, make, resolve
from otbsr.evaluation.blocks import LEAST_BLOCK, Blocks, assign_folds, refuse_leak, refuse_samples_in_test, training_polygons, training_record
from otbsr.evaluation.learners import FIELD, Learner
from otbsr.evaluation.recipes import ImageFile, Making, Model
from otbsr.evaluation.study_maps import FORMAT, MAPS
from otbsr.evaluation.work import (
    file_hash,
    fingerprint,
    parallel,
    prepared_folder,
    read_band,
    read_key,
    refuse_foreign,
    scratch_folder,
    seed_of,
    versions,
    write_raster,
)
from otbsr.files import write_json, write_text, write_vectors
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import Report, part, silent
from otbsr.serving.reliability import write_disagreement

Positive = Annotated[int, Field(ge=1)]


class StudySettings(BaseModel):
    """What can be chosen, also in a YAML file; lengths in metres.

    Folds: parts of the blocks, each judged by a learner trained on the others. Repeats: samplings of the training pixels, each with its own
    learners: an interval of one area and one repeat would know nothing of how much the choice of samples matters. Areas have learners of
    their own unless `pool`ed: local training data are what a mapper has, and areas stay independent of each other, which intervals over
    areas assume. Pooled, folds run over the blocks of all areas (for areas too small to be split).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=1, ge=0)
    folds: int = Field(default=5, ge=2)
    repeats: int | None = Field(default=None, ge=1, description="default: as many as make 3 with the areas, so that samples vary in the answer")
    block: float = Field(default=LEAST_BLOCK, gt=0)
    buffer: float = Field(default=60.0, ge=0)
    samples: int = Field(default=500, ge=2, description="of each class and fold at most")
    least: Positive = Field(default=learners.LEAST, description="a class scarcer than this does not lower the number of the others")
    learners: tuple[str, ...] = Field(default=("rf",), min_length=1)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict, description="arms of one's own: name and recipe")
    choice: tuple[str, ...] = Field(default=(), description="the arms compared; default: `default_arms` and one's own")
    model: Path | None = Field(default=None, description="model folder of F")
    against: Path | None = Field(default=None, description="model folder of P")
    artificial: bool = Field(default=False, description="two classes: artificial surfaces and the rest")
    pool: bool = False
    smooth: int = Field(default=0, ge=0, le=30, description="radius of the majority vote over the map, pixels; 0: none")
    replicates: int = Field(default=2000, ge=100, description="of the bootstrap")
    jobs: int = Field(default=2, ge=1, description="arms and areas worked on at once")

    @field_validator("learners")
    @classmethod
    def known_learners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """OTB's names, each once."""
        for name in value:
            if name not in learners.LEARNERS:
                raise ValueError(f"{name} is none of {', '.join(learners.LEARNERS)}{nearest(name, learners.LEARNERS)}")
        return tuple(dict.fromkeys(value))

    @classmethod
    def read(cls, path: Path | None, **given: Any) -> StudySettings:
        """Settings of a YAML file, if any; those `given` that are not None win. Raises `InputError` and `UsageError`."""
        content: Any = {}
        if path is not None:
            content = read_document(path, "YAML with lines such as `folds: 5`") or {}
            if not isinstance(content, dict):
                raise InputError(f"{path}: holds no mapping; expected lines such as `folds: 5`")
        try:
            return cls.model_validate({**content, **{key: value for key, value in given.items() if value is not None}})
        except ValidationError as error:
            raise UsageError(f"{flaw(error, flags=False)}; see `otbsr study --help`") from None


@dataclass(frozen=True)
class Site:
    """An area in the study: its blocks, the fold that judges each, the number of folds, and the key of what decides split and samples."""

    area: Area
    folder: Path
    blocks: Blocks
    folds: NDArray[np.int64]
    count: int
    group: int
    key: str

    @property
    def name(self) -> str:
        """The area's name."""
        return self.area.name

    @property
    def reference(self) -> Path:
        """The labels that judge."""
        return self.folder / "reference_2m5.tif"

    def mask(self, fold: int) -> Path:
        """1 where the fold judges."""
        return self.folder / f"test_{fold}_2m5.tif"

    def tested(self, fold: int) -> list[int]:
        """The blocks that a fold judges."""
        return [int(block) for block in np.flatnonzero(self.folds == fold)]


@dataclass(frozen=True)
class Unit:
    """One kind of map: an arm, a learner and a repeat, in a group of areas that share their learners."""

    group: int
    arm: str
    learner: str
    repeat: int


def study(
    areas: Sequence[str | Path], out: str | Path, settings: StudySettings, *, trust_model: bool = False, overwrite: bool = False, report: Report = silent
) -> dict[str, Any]:
    """Make every arm's image and maps of the areas in `out`, judge them and write the report; returns study.json's content.

    trust_model: as `apply` takes it, and no setting: a file of settings that somebody else wrote must not say whom to trust.
    Finished images and maps are kept where all that decides them is the same; `overwrite` makes them again. Raises `InputError`,
    `UsageError` (a model was trained here, areas too small, arms that cannot be), and what `apply` and OTB raise.
    """
    from otbsr.evaluation.evaluate import evaluate
    from otbsr.evaluation.report import write_report

    make_maps(areas, out, settings, trust_model=trust_model, overwrite=overwrite, report=report)
    content = evaluate(Path(out), report)
    write_report(Path(out), report=report)
    return content


def make_maps(
    areas: Sequence[str | Path], out: str | Path, settings: StudySettings, *, trust_model: bool = False, overwrite: bool = False, report: Report = silent
) -> dict[str, Any]:
    """The study's first half: all files up to maps.json, whose content is returned. Raises as `study` does."""
    return open_study(areas, out, settings, trust_model).run(overwrite, report)


def open_study(areas: Sequence[str | Path], out: str | Path, settings: StudySettings, trust_model: bool = False) -> Study:
    """The study of these areas with its arms and learners; nothing is written. Raises as `study` does."""
    given = open_areas(areas, settings.artificial)
    classes = given[0].classes
    chosen = [learners.learner_of(name, len(classes)) for name in settings.learners]
    if settings.repeats is None:
        settings = settings.model_copy(update={"repeats": math.ceil(3 / (1 if settings.pool else len(given)))})
    names = settings.choice or (*default_arms(given, settings.model, settings.against), *settings.arms)
    return Study(given, chosen, resolve(names, settings.arms, settings.model, settings.against), settings, Path(out), trust_model)


class Study:
    """The work of one study, in the order of its methods."""

    def __init__(self, areas: Sequence[Area], chosen: Sequence[Learner], arms: Sequence[Arm], settings: StudySettings, out: Path, trust: bool = False) -> None:
        """Nothing is written yet."""
        self.areas, self.learners, self.arms, self.settings, self.out = areas, {one.name: one for one in chosen}, arms, settings, out
        self.repeats, self.trust = range(settings.repeats or 1), trust
        self.models = {str(path): ModelFolder.open(path, trust) for one in arms for path in one.recipe.models}
        self.warnings: list[str] = []
        self.sites: list[Site] = []

    def run(self, overwrite: bool, report: Report) -> dict[str, Any]:
        """Everything up to maps.json."""
        trained, truth = self.prepare()
        with prepared_folder(self.out, overwrite), scratch_folder(self.out) as self.scratch:
            write_text(self.out / "study.yaml", yaml.safe_dump(json.loads(self.settings.model_dump_json()), sort_keys=False, allow_unicode=True))
            for number, (site, (labels, polygons)) in enumerate(zip(self.sites, truth, strict=True)):
                self.write_site(site, labels, polygons)
                report("areas", (number + 1) / len(self.sites))
            images = self.make_images(report)
            samples = self.select(report)
            self.make_maps(images, report)
            content = self.content(trained, samples)
            write_json(self.out / MAPS, content)
        return content

    def prepare(self) -> tuple[dict[str, dict[str, str]], list[tuple[NDArray[np.uint8], gpd.GeoDataFrame]]]:
        """Check all that can be checked before anything is written, and deal the blocks: `sites`.

        Returns what each model's training says of each area, and each area's labels and training polygons.
        """
        refuse_foreign(self.out)
        cuts = [Blocks.cut(area.fine, self.settings.block) for area in self.areas]
        trained = {
            folder.sidecar.name: {area.name: refuse_leak(area, blocks, folder) for area, blocks in zip(self.areas, cuts, strict=True)}
            for folder in self.models.values()
        }
        for area in self.areas:
            for arm in self.arms:
                if lacking := arm.recipe.missing(area):
                    raise InputError(f"{area.path}: arm {arm.name} needs {lacking}; add it, or leave the arm out")
        self.warn_of_training(trained)
        truth = [(area.labels(), area.polygons()) for area in self.areas]
        self.sites = self.split(cuts, truth)
        return trained, truth

    def warn_of_training(self, trained: Mapping[str, Mapping[str, str]]) -> None:
        """Say which models do not tell where they were trained."""
        for name, areas in trained.items():
            if unknown := [area for area, said in areas.items() if said == "unknown"]:
                self.warnings.append(f"{name} does not list where it was trained: whether it saw {', '.join(unknown)} is not known")

    # --- areas, blocks, folds ----------------------------------------------------------------------------------------------

    def split(self, cuts: Sequence[Blocks], truth: Sequence[tuple[NDArray[np.uint8], gpd.GeoDataFrame]]) -> list[Site]:
        """The areas with the fold of each block, dealt within groups of areas; truth: labels and training polygons. Raises `UsageError`."""
        settings, count = self.settings, len(self.areas[0].classes)
        if settings.block < LEAST_BLOCK:
            self.warnings.append(f"blocks of {settings.block:g} m: neighbours may be alike, so that intervals may be too narrow (expected {LEAST_BLOCK:g} m)")
        groups = [list(range(len(self.areas)))] if settings.pool else [[index] for index in range(len(self.areas))]
        sites: dict[int, Site] = {}
        for group, members in enumerate(groups):
            content = np.concatenate([cuts[i].count(truth[i][0], count) for i in members])
            trained = np.concatenate([cuts[i].count(burn(truth[i][1], self.areas[i].fine), count) for i in members])
            named = self.areas[members[0]].name if len(members) == 1 else "all"
            if len(content) < settings.folds:
                self.warnings.append(f"{named}: {len(content)} blocks, so {len(content)} folds instead of {settings.folds}")
            folds = assign_folds(np.concatenate([content, trained], axis=1), settings.folds, settings.seed)
            files = [
                file_hash(*(self.areas[i].path / name for name in (INPUT, LAND_COVER, "landcover.gpkg", POLYGONS, LEGEND, "clouds_10m.tif"))) for i in members
            ]
            first = 0
            for i in members:
                last = first + len(cuts[i].outlines)
                key = fingerprint(
                    {
                        "area": [self.areas[i].name, self.areas[i].classes],
                        "files": files,
                        "folds": [first, folds.tolist()],
                        **settings.model_dump(mode="json", include={"seed", "block", "buffer", "samples", "least", "artificial"}),
                    }
                )
                sites[i] = Site(self.areas[i], self.out / "areas" / self.areas[i].name, cuts[i], folds[first:last], int(folds.max()) + 1, group, key)
                first = last
        return [sites[i] for i in range(len(sites))]

    def write_site(self, site: Site, labels: NDArray[np.uint8], polygons: gpd.GeoDataFrame) -> None:
        """reference_2m5.tif, blocks_2m5.tif, blocks.gpkg, test_N_2m5.tif, train_N.gpkg; kept when made from the same things."""
        if read_key(site.folder / "area.json") == site.key and site.reference.is_file():
            return
        site.folder.mkdir(parents=True, exist_ok=True)
        (site.folder / "area.json").unlink(missing_ok=True)
        write_raster(site.reference, labels, site.area.fine, 0)
        write_raster(site.folder / "blocks_2m5.tif", site.blocks.index, site.area.fine, -1)
        table = gpd.GeoDataFrame({"block": range(len(site.folds)), "fold": site.folds}, geometry=list(site.blocks.outlines), crs=site.area.fine.crs or None)
        write_vectors(table, site.folder / "blocks.gpkg", "blocks")
        for fold in sorted(set(site.folds.tolist())):
            write_raster(site.mask(fold), ((site.folds[site.blocks.index] == fold) & (labels > 0)).astype(np.uint8), site.area.fine, None)
        for fold in range(site.count):
            kept = training_polygons(polygons, [site.blocks.outlines[block] for block in site.tested(fold)], self.settings.buffer)
            chosen = gpd.GeoDataFrame({FIELD: kept["class"].astype(int).to_numpy()}, geometry=kept.geometry.to_numpy(), crs=polygons.crs)
            write_vectors(chosen, site.folder / f"train_{fold}.gpkg", "train")
        write_json(site.folder / "area.json", {"key": site.key})

    # --- images ------------------------------------------------------------------------------------------------------------

    def image(self, site: Site, arm: str) -> Path:
        """Where an arm's image is."""
        return self.out / "arms" / site.name / arm / "image_2m5.tif"

    def make_images(self, report: Report) -> dict[tuple[str, str], str]:
        """Every arm's image in every area; returns their keys by (area, arm)."""
        keys: dict[tuple[str, str], str] = {}
        for site in self.sites:
            files = file_hash(site.area.input, *(site.area.others[key] for key in ("spot", "other", "stack") if key in site.area.others))
            for arm in self.arms:
                model = [self.models[str(path)].sidecar.sha256 for path in arm.recipe.models]
                own = {"recipe": json.loads(arm.recipe.model_dump_json()), "verb": type(arm.recipe).__name__, "model": model, "seed": self.settings.seed}
                for option in ("model", "other_date"):  # a model's content counts, not its folder's name
                    if own["recipe"].get(option):
                        own["recipe"][option] = True
                if isinstance(arm.recipe, ImageFile):
                    own["image"] = file_hash(site.area.path / arm.recipe.image)
                keys[site.name, arm.name] = fingerprint({**own, "files": files, "sources": [keys[site.name, source] for source in arm.recipe.sources]})

        def work(site: Site) -> Callable[[Report], None]:
            def images(progress: Report) -> None:
                for number, arm in enumerate(self.arms):
                    inner = part(progress, "images", number / len(self.arms), (number + 1) / len(self.arms))
                    self.make_image(site, arm, keys[site.name, arm.name], inner)
                    inner("", 1.0)
                self.make_disagreement(site, keys)

            return images

        parallel([work(site) for site in self.sites], self.settings.jobs, "images", report)
        return keys

    def make_image(self, site: Site, arm: Arm, key: str, report: Report) -> None:
        """One arm's image, unless it is there."""
        image = self.image(site, arm.name)
        if read_key(image.with_name("arm.json")) == key and image.is_file():
            return
        image.parent.mkdir(parents=True, exist_ok=True)
        image.with_name("arm.json").unlink(missing_ok=True)
        sources = {source: self.image(site, source) for source in arm.recipe.sources}
        make(arm, Making(site.area, sources, self.settings.seed, report, self.trust), image)
        write_json(image.with_name("arm.json"), {"key": key, "name": arm.name, "recipe": json.loads(arm.recipe.model_dump_json())})

    def disagreement(self, site: Site) -> Path | None:
        """How far F's and P's images are apart, where both are there."""
        names = {arm.name for arm in self.arms}
        return self.out / "arms" / site.name / "disagreement_2m5.tif" if {"f", "p"} <= names else None

    def make_disagreement(self, site: Site, keys: Mapping[tuple[str, str], str]) -> None:
        """Write it once."""
        out = self.disagreement(site)
        if out is None:
            return
        key = fingerprint({"disagreement": [keys[site.name, "f"], keys[site.name, "p"]]})
        beside = out.with_suffix(".json")
        if read_key(beside) == key and out.is_file():
            return
        sides = [next(self.models[str(arm.recipe.model)].sidecar for arm in self.arms if arm.name == name and isinstance(arm.recipe, Model)) for name in "fp"]
        write_disagreement(self.image(site, "f"), self.image(site, "p"), out, sides[0], sides[1], site.area.fine, silent)
        write_json(beside, {"key": key})

    # --- samples -----------------------------------------------------------------------------------------------------------

    def points(self, site: Site, repeat: int) -> Path:
        """The samples of all folds of a repeat: fields label and fold."""
        return self.out / "samples" / site.name / f"points_{repeat}.gpkg"

    def select(self, report: Report) -> dict[str, dict[str, dict[int, int]]]:
        """Select the samples of every area and repeat; returns counts by area, fold and class of the first repeat."""

        def work(group: int, repeat: int) -> Callable[[Report], None]:
            return lambda _progress: self.select_group(self.members(group), repeat)

        tasks = [work(group, repeat) for group in sorted({site.group for site in self.sites}) for repeat in self.repeats]
        parallel(tasks, self.settings.jobs, "samples", report)
        counts: dict[str, dict[str, dict[int, int]]] = {}
        for site in self.sites:
            points = gpd.read_file(self.points(site, 0), ignore_geometry=True)
            counts[site.name] = {
                str(fold): {int(code): int(number) for code, number in rows[FIELD].value_counts().sort_index().items()} for fold, rows in points.groupby("fold")
            }
        self.warn_of_scarce(counts)
        return counts

    def select_group(self, sites: Sequence[Site], repeat: int) -> None:
        """The samples of one repeat in areas that share learners: a selection for each fold, away from its test blocks."""
        if all(read_key(self.points(site, repeat).with_suffix(".json")) == site.key and self.points(site, repeat).is_file() for site in sites):
            return
        tables: dict[str, list[gpd.GeoDataFrame]] = {site.name: [] for site in sites}
        for fold in range(sites[0].count):
            scratch = {site.name: self.scratch / f"{site.name}-{repeat}-{fold}" for site in sites}
            there = []
            for site in sites:
                scratch[site.name].mkdir()
                polygons = site.folder / f"train_{fold}.gpkg"
                there.append(learners.count_polygons(site.reference, polygons, scratch[site.name]) if len(gpd.read_file(polygons, rows=1)) else {})
            if not any(there):
                raise UsageError(
                    f"{sites[0].area.path}: no training polygon lies outside the test blocks of fold {fold} and {self.settings.buffer:g} m around them; "
                    "take a smaller --block or --buffer, or more polygons"
                )
            for site, wanted in zip(sites, learners.share_out(there, self.settings.samples, self.settings.least), strict=True):
                if wanted:
                    seed = seed_of(self.settings.seed, site.name, repeat, fold)
                    points = learners.select_samples(site.reference, site.folder / f"train_{fold}.gpkg", wanted, seed, scratch[site.name])
                    refuse_samples_in_test(site.area, site.blocks, site.tested(fold), points.geometry, self.settings.buffer)
                    points["fold"] = fold
                    # Shuffled: learners that take fewer samples take the first of each class.
                    tables[site.name].append(points.sample(frac=1.0, random_state=seed).reset_index(drop=True))
        for site in sites:
            out, beside = self.points(site, repeat), self.points(site, repeat).with_suffix(".json")
            if not tables[site.name]:
                raise UsageError(f"{site.area.path}: holds no training polygon that any fold may use; leave the area out, or take more folds")
            out.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            table = gpd.GeoDataFrame(pd.concat(tables[site.name], ignore_index=True), geometry="geometry", crs=tables[site.name][0].crs)
            write_vectors(table[[FIELD, "fold", "geometry"]], out, "samples")
            write_json(beside, {"key": site.key})

    def warn_of_scarce(self, counts: Mapping[str, Mapping[str, Mapping[int, int]]]) -> None:
        """Say which classes a fold has fewer samples of than of the others, or none."""
        for group in sorted({site.group for site in self.sites}):
            sites = self.members(group)
            scarce: set[str] = set()
            for fold in range(sites[0].count):
                total = {one["code"]: sum(counts[site.name].get(str(fold), {}).get(one["code"], 0) for site in sites) for one in self.areas[0].classes}
                scarce |= {one["name"] for one in self.areas[0].classes if total[one["code"]] < max(total.values())}
            if scarce:
                where = sites[0].name if len(sites) == 1 else "all areas"
                self.warnings.append(f"{where}: fewer samples than of other classes, in a fold at least, of {', '.join(sorted(scarce))}")

    # --- maps --------------------------------------------------------------------------------------------------------------

    def map(self, site: Site, unit: Unit) -> Path:
        """Where a map is."""
        return self.out / "maps" / site.name / unit.arm / f"{unit.learner}_{unit.repeat}.tif"

    def confidence(self, site: Site, unit: Unit) -> Path | None:
        """Where its confidence is, where OTB gives one."""
        path = self.map(site, unit)
        return path.with_name(f"{path.stem}_confidence.tif") if self.learners[unit.learner].confidence else None

    def members(self, group: int) -> list[Site]:
        """The areas that share learners."""
        return [site for site in self.sites if site.group == group]

    def units(self) -> Iterator[Unit]:
        """All maps to be made: arms side by side, so that an interrupted study has whole repeats."""
        for repeat in self.repeats:
            for learner in self.learners:
                for group in sorted({site.group for site in self.sites}):
                    for arm in self.arms:
                        if not arm.hidden:
                            yield Unit(group, arm.name, learner, repeat)

    def make_maps(self, images: Mapping[tuple[str, str], str], report: Report) -> None:
        """Train and map every unit that is not there."""

        def key(site: Site, unit: Unit) -> str:
            mates = [[one.key, images[one.name, unit.arm]] for one in self.members(unit.group)]
            learner = {"name": unit.learner, **self.learners[unit.learner].parameters, "most": self.learners[unit.learner].most}
            return fingerprint(
                {"image": images[site.name, unit.arm], "group": mates, "learner": learner, "repeat": unit.repeat, "smooth": self.settings.smooth}
            )

        def finished(site: Site, unit: Unit) -> bool:
            path, sure = self.map(site, unit), self.confidence(site, unit)
            return read_key(path.with_suffix(".json")) == key(site, unit) and path.is_file() and (sure is None or sure.is_file())

        def work(unit: Unit) -> Callable[[Report], None]:
            return lambda progress: self.run_unit(unit, {site.name: key(site, unit) for site in self.members(unit.group)}, progress)

        units = list(self.units())
        todo = [unit for unit in units if not all(finished(site, unit) for site in self.members(unit.group))]
        parallel([work(unit) for unit in todo], self.settings.jobs, "maps", report, len(units) - len(todo))

    def run_unit(self, unit: Unit, keys: Mapping[str, str], report: Report) -> None:
        """Train each fold's learner and map its test blocks; the folds' maps together are the area's map, checked and counted."""
        sites, learner = self.members(unit.group), self.learners[unit.learner]
        scratch = self.scratch / f"{unit.group}-{unit.arm}-{unit.learner}-{unit.repeat}"
        scratch.mkdir()
        folds = sites[0].count
        tables = {site.name: self.extract(site, unit, scratch) for site in sites}
        with rasterio.open(self.image(sites[0], unit.arm)) as dataset:
            features = dataset.count
        scaling = scratch / "scaling.xml" if learner.scaled else None
        if scaling:
            learners.write_scaling([self.image(site, unit.arm) for site in sites], scaling)
        shape = {site.name: (site.area.fine.height, site.area.fine.width) for site in sites}
        maps = {name: np.zeros(size, np.uint8) for name, size in shape.items()}
        sure = {name: np.zeros(size, np.float32) for name, size in shape.items()} if learner.confidence else {}
        for fold in range(folds):
            vectors = []
            for name, table in tables.items():
                rows = table[table["fold"] == fold]
                if learner.most:
                    rows = rows.groupby(FIELD, group_keys=False).head(max(1, learner.most // len(sites)))
                if len(rows):
                    vectors.append(scratch / f"{name}-{fold}.gpkg")
                    learners.write_points(rows, vectors[-1])
            model = scratch / f"{fold}.model"
            seed = seed_of(self.settings.seed, "learner", unit.repeat, fold)
            learners.train(vectors, features, model, learner, seed, scaling)
            report("", (fold + 0.5) / folds)
            for site in sites:
                if not site.tested(fold):
                    continue
                found, given = scratch / "map.tif", scratch / "confidence.tif" if learner.confidence else None
                learners.classify(self.image(site, unit.arm), model, found, confidence=given, mask=site.mask(fold), scaling=scaling, threads=1)
                maps[site.name] += read_band(found)  # no pixel is in the test blocks of two folds
                if given:
                    sure[site.name] += read_band(given)
            report("", (fold + 1) / folds)
        for site in sites:
            self.finish_map(site, unit, maps[site.name], sure.get(site.name), keys[site.name], scratch)
        shutil.rmtree(scratch)

    def extract(self, site: Site, unit: Unit, scratch: Path) -> gpd.GeoDataFrame:
        """The arm's features at the samples of all folds of the repeat."""
        out = scratch / f"{site.name}.sqlite"
        table = learners.extract_samples(self.image(site, unit.arm), self.points(site, unit.repeat), out)
        expected = len(gpd.read_file(self.points(site, unit.repeat), ignore_geometry=True))
        if len(table) != expected:
            raise ProcessingError(f"{out}: SampleExtraction wrote {len(table)} samples of {expected}; report this as a bug")
        return table

    def finish_map(self, site: Site, unit: Unit, found: NDArray[np.uint8], sure: NDArray[np.float32] | None, key: str, scratch: Path) -> None:
        """Check that every judged pixel is mapped and that OTB counts the matrix that we do, and give the map its name."""
        path, beside = self.map(site, unit), self.confidence(site, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        reference, classes = read_band(site.reference), len(site.area.classes)
        temporary = scratch / "whole.tif"
        write_raster(temporary, found, site.area.fine, 0)
        if self.settings.smooth:
            learners.regularise(temporary, scratch / "smooth.tif", self.settings.smooth)
            found = np.where(reference > 0, read_band(scratch / "smooth.tif"), 0).astype(np.uint8)
            write_raster(temporary, found, site.area.fine, 0)
        if ((found > 0) != (reference > 0)).any() or found.max(initial=0) > classes:
            wrong = int(((found > 0) != (reference > 0)).sum())
            raise ProcessingError(f"{path}: {wrong} judged pixels are not mapped or others are, labels up to {found.max()} of {classes}; report this as a bug")
        counted = learners.confusion_of(temporary, site.reference, scratch / "confusion.csv", classes)
        if not np.array_equal(counted, learners.count_confusion(found, reference, classes)):
            raise ProcessingError(f"{path}: OTB counted {counted.sum()} pixels and another confusion matrix than otbsr; report this as a bug")
        path.with_suffix(".json").unlink(missing_ok=True)
        if beside is not None and sure is not None:
            write_raster(scratch / "sure.tif", sure, site.area.fine, None)
            os.replace(scratch / "sure.tif", beside)
        os.replace(temporary, path)
        write_json(path.with_suffix(".json"), {"key": key, "confusion": counted.tolist()})

    # --- what the other half reads -------------------------------------------------------------------------------------------

    def content(self, trained: Mapping[str, Mapping[str, str]], samples: Mapping[str, Mapping[str, Mapping[int, int]]]) -> dict[str, Any]:
        """maps.json, paths relative to the study's folder."""
        shown = [arm for arm in self.arms if not arm.hidden]

        def relative(path: Path | None) -> str:
            return Path(os.path.relpath(path.absolute(), self.out.absolute())).as_posix() if path is not None else ""

        areas, runs = [], []
        for site in self.sites:
            areas.append(
                {
                    "name": site.name,
                    "path": relative(site.area.path),
                    "reference": relative(site.reference),
                    "blocks": relative(site.folder / "blocks_2m5.tif"),
                    "block_size": site.blocks.size,
                    "folds": site.folds.tolist(),
                    "simulated": site.area.seed is not None,
                    "source": site.area.source,
                    "image": relative(site.area.others.get("image")),
                    "input": relative(site.area.input),
                    "disagreement": relative(self.disagreement(site)),
                    "settings": site.area.settings,
                }
            )
        for unit in self.units():
            for site in self.members(unit.group):
                paths = {"map": relative(self.map(site, unit)), "confidence": relative(self.confidence(site, unit))}
                runs.append({"area": site.name, "arm": unit.arm, "learner": unit.learner, "repeat": unit.repeat, **paths})
        return {
            "format": FORMAT,
            "baseline": BASELINE,
            "classes": self.areas[0].classes,
            "areas": areas,
            "arms": [
                {"name": arm.name, "title": arm.title, "kind": arm.kind, "control": arm.control, "oracle": arm.oracle, "model": arm.model} for arm in shown
            ],
            "learners": list(self.learners),
            "runs": runs,
            "images": {site.name: {arm.name: relative(self.image(site, arm.name)) for arm in shown} for site in self.sites},
            "counts": {site.name: {"samples": {fold: {str(c): n for c, n in row.items()} for fold, row in samples[site.name].items()}} for site in self.sites},
            "protocol": json.loads(self.settings.model_dump_json(exclude={"arms", "model", "against", "jobs"})),
            "models": [
                {
                    "name": folder.sidecar.name,
                    "method": folder.sidecar.method,
                    "sha256": folder.sidecar.sha256,
                    "training_areas": {key: value for key, value in training_record(folder).items() if key != "known"},
                    "data": folder.sidecar.training.get("data", ""),
                    "areas": trained[folder.sidecar.name],
                }
                for folder in self.models.values()
            ],
            "versions": versions(),
            "command": self.command(),
            "warnings": self.warnings,
        }

    def command(self) -> str:
        """What repeats the study."""
        trust = " --trust-model" if self.trust else ""
        return f"otbsr study {' '.join(str(area.path) for area in self.areas)} --settings {self.out / 'study.yaml'} --out {self.out}{trust}"
