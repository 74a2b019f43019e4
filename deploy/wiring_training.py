"""Builds what trains from the configuration.

Importing this loads torch and the learner; deploy/wiring.py does not.
"""

import subprocess
from importlib import metadata
from pathlib import Path

import torch

from deploy.config import Config
from deploy.wiring import pointer, registry
from models.catalogue_columns import CatalogueColumns
from stream.archive import ArchiveReader
from stream.catalogue import Catalogue
from stream.joined_reader import JoinedReader
from updater.incremental import CatalogueAt, IncrementalUpdater
from updater.rankers import RankerRetrain
from updater.retrain import FullRetrain, Provenance
from updater.state import Progress, Recipe

_RECORDED = ("freshrecall", "torch", "faiss-cpu", "numpy", "numba", "pyarrow")


def recipe(config: Config) -> Recipe:
    """What is learned; popularity counts the positives of all models."""
    positives = sorted({kind for model in config.models.values() for kind in model.positives})
    return Recipe(
        models=config.models,
        features=config.features,
        positives=tuple(positives),
        popularity_half_life_ms=round(config.update.popularity_half_life_h * 3_600_000),
        channels=config.channels,
        affinities=config.update.prerank,
        met=config.update.prerank_met,
    )


def catalogue_at(config: Config) -> CatalogueAt:
    """The catalogue as of an event time; the same object again while nothing in it has changed."""
    catalogue = Catalogue(config.catalogue_dir)
    held = CatalogueColumns()

    def at(as_of_ms: int) -> CatalogueColumns:
        nonlocal held
        items, users = catalogue.items_table(as_of_ms), catalogue.users_table(as_of_ms)
        if held.items is not items or held.users is not users:
            held = CatalogueColumns(items, users, catalogue.sequence())
        return held

    return at


def incremental_updater(config: Config) -> IncrementalUpdater:
    """The hourly updater of the consumer."""
    return IncrementalUpdater(
        ArchiveReader(config.archive_dir),
        registry(config),
        pointer(config),
        catalogue_at(config),
        config.update,
    )


def full_retrain(config: Config) -> FullRetrain:
    """The daily retrain, also `freshrecall retrain`."""
    return FullRetrain(
        ArchiveReader(config.archive_dir),
        registry(config),
        pointer(config),
        catalogue_at(config),
        recipe(config),
        config.index,
        config.update,
        provenance(),
        rankers=rankers(config),
    )


def rankers(config: Config) -> RankerRetrain | None:
    """Training of the configured rankers on what the join gave out; None without any."""
    if not config.rankers:
        return None
    return RankerRetrain(config.rankers, config.features, JoinedReader(config.joined_dir))


def retrain(config: Config, through_ms: int | None, progress: Progress = lambda what, done, of: None) -> str:
    """Train and publish one bundle on the configured threads; returns its id. Raises as FullRetrain.run."""
    torch.set_num_threads(config.update.retrain_threads)
    return full_retrain(config).run(through_ms, progress)


def provenance() -> Provenance:
    """Git revision (empty outside a checkout) and the versions that decide the bytes of a model."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        revision = found.stdout.strip() if found.returncode == 0 else ""
    except FileNotFoundError:
        revision = ""
    return Provenance(revision, tuple((name, metadata.version(name)) for name in _RECORDED))
