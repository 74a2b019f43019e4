"""Builds the objects of every room from the configuration; nothing else in the project knows all of them."""

import contextlib
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from deploy import catalogue_import
from deploy.addresses import resolved
from deploy.config import Config
from models.catalogue_columns import CatalogueColumns
from models.pointer import PointerStore
from models.registry import Registry
from stream.archive import Archive, ArchiveReader
from stream.catalogue import Catalogue, CatalogueWriter
from stream.catalogue_intake import CatalogueIntake
from stream.dead_letters import DeadLetters
from stream.intake import Intake
from stream.producer import EventProducer
from stream.profiles import AsyncProfiles, Profiles
from updater.incremental import CatalogueAt, IncrementalUpdater
from updater.retrain import FullRetrain, Provenance
from updater.schedule import DailyJob, Schedule
from updater.state import Recipe

_RECORDED = ("freshrecall", "torch", "fbgemm-gpu-cpu", "faiss-cpu", "numpy", "numba", "pyarrow")


def archive(config: Config) -> Archive:
    """The writing end of the event log. Raises ArchiveLocked when another process writes it."""
    return Archive(config.archive_dir, config.archive.interval_ms)


def open_producer(config: Config) -> EventProducer:
    """Events into Kafka. Raises Unreachable when no broker answers."""
    return EventProducer(resolved(config).kafka)


@contextlib.contextmanager
def dead_letters(config: Config) -> Iterator[DeadLetters]:
    """Refused events into `dead.jsonl` and the topic of dead letters. Raises Unreachable."""
    kafka = resolved(config).kafka
    with EventProducer(kafka) as producer:
        yield DeadLetters(config.dead_letter_file, lambda record: producer.publish(kafka.dead, record))


def profiles(config: Config) -> Profiles:
    """The writing end of the online profiles. Raises Unreachable when no store answers."""
    return Profiles(resolved(config).redis.url, config.profiles)


def async_profiles(config: Config) -> AsyncProfiles:
    """The reading end of the online profiles."""
    return AsyncProfiles(resolved(config).redis.url, config.profiles)


def intake(config: Config, held: Archive, online: Profiles, letters: DeadLetters) -> Intake:
    """From Kafka into `held` and `online`."""
    return Intake(resolved(config).kafka, held, online, letters, config=config.intake)


def recipe(config: Config) -> Recipe:
    """What is learned; popularity counts the positives of all models."""
    positives = sorted({kind for model in config.models.values() for kind in model.positives})
    return Recipe(
        models=config.models,
        features=config.features,
        positives=tuple(positives),
        popularity_half_life_ms=round(config.update.popularity_half_life_h * 3_600_000),
    )


def registry(config: Config) -> Registry:
    """Bundles and deltas in the data directory."""
    return Registry(config.registry_dir)


def pointer(config: Config) -> PointerStore:
    """The served version, with change notices through Redis."""
    # Under the prefix of the profiles: two systems may share a store.
    name = f"{config.profiles.prefix}:pointer"
    return PointerStore(config.registry_dir, resolved(config).redis.url, name)


def catalogue_writer(config: Config) -> CatalogueWriter:
    """The writing end of the catalogue."""
    return CatalogueWriter(config.catalogue_dir)


def catalogue_intake(
    config: Config, writer: CatalogueWriter, online: Profiles, letters: DeadLetters
) -> CatalogueIntake:
    """From the catalogue topics into `writer`, and user attributes into `online`."""
    return CatalogueIntake(resolved(config).kafka, writer, online, letters)


def import_catalogue(config: Config, items: Path | None, users: Path | None) -> int:
    """Parquet tables of items and users into the catalogue topics; returns the number of rows sent."""
    return catalogue_import.import_catalogue(resolved(config).kafka, items, users)


def catalogue_at(config: Config) -> CatalogueAt:
    """The catalogue as of an event time; the same object again while nothing in it has changed."""
    catalogue = Catalogue(config.catalogue_dir)
    held = CatalogueColumns()

    def at(as_of_ms: int) -> CatalogueColumns:
        nonlocal held
        items, users = catalogue.items_table(as_of_ms), catalogue.users_table(as_of_ms)
        if held.items is not items or held.users is not users:
            held = CatalogueColumns(items, users)
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
    )


def schedule(config: Config) -> Schedule:
    """The clock that asks for the daily retrain."""
    job = full_retrain(config)
    bundles = registry(config)

    def trained_through_ms() -> int | None:
        newest = bundles.newest_whole(verify=False)
        return None if newest is None else int(newest.manifest["watermark_ms"])

    def retrain(through_ms: int) -> None:
        job.run(through_ms)

    daily = DailyJob(
        config.schedule,
        config.archive.interval_ms,
        job.archive.sealed_through_ms,
        trained_through_ms,
        retrain,
    )
    return Schedule(config.schedule, daily)


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
