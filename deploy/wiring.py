"""Builds the objects of every room from the configuration; nothing else in the project knows all of them.

What trains is built in deploy/wiring_training.py, so that a process that does not train never loads torch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy import catalogue_import
from deploy.addresses import resolved
from deploy.config import Config
from models.pointer import PointerStore
from models.registry import Registry
from serving.packed_history import packed_history
from stream.archive import Archive, ArchiveReader
from stream.catalogue import CatalogueWriter
from stream.catalogue_intake import CatalogueIntake
from stream.dead_letters import DeadLetters
from stream.intake import Intake
from stream.joined_log import JoinedLog
from stream.popular_store import PopularCounts
from stream.producer import EventProducer
from stream.profiles import AsyncProfiles, Profiles
from stream.seen_store import SeenSets
from updater.schedule import DailyJob, Schedule


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
        yield DeadLetters(
            config.dead_letter_file,
            lambda record: producer.publish(kafka.dead, record),
            config.intake.dead_letter_bytes,
        )


def profiles(config: Config) -> Profiles:
    """The writing end of the online profiles. Raises Unreachable when no store answers."""
    return Profiles(resolved(config).redis.url, config.profiles)


def async_profiles(config: Config) -> AsyncProfiles:
    """The reading end of the online profiles, with the seen sets."""
    return AsyncProfiles(resolved(config).redis.url, config.profiles, config.seen, packed_history)


@contextlib.contextmanager
def seen_sets(config: Config) -> Iterator[SeenSets | None]:
    """The writing end of the seen sets, None where there are none. Raises Unreachable."""
    if not config.seen:
        yield None
        return
    with contextlib.closing(
        SeenSets(resolved(config).redis.url, config.seen, config.profiles.prefix)
    ) as sets:
        yield sets


def intake(
    config: Config,
    held: Archive,
    online: Profiles,
    letters: DeadLetters,
    item_counts: Sequence[PopularCounts] = (),
    seen: SeenSets | None = None,
) -> Intake:
    """From Kafka into `held`, `online`, `item_counts` and `seen`."""
    kafka = resolved(config).kafka
    return Intake(kafka, held, online, letters, config=config.intake, item_counts=item_counts, seen=seen)


def joined_log(config: Config) -> JoinedLog:
    """The join of impressions with actions, behind the archive's seals; rankers read its rows."""
    return JoinedLog(
        config.joined_dir, ArchiveReader(config.archive_dir), config.join, lambda: ranked_through_ms(config)
    )


def ranked_through_ms(config: Config) -> int | None:
    """End of the last interval whose joined rows every ranker of every bundle was trained on; None: there is
    no such ranker, and a new one begins with what is kept.
    """
    if not config.rankers:
        return None
    held = [manifest.get("rankers", {}) for manifest in registry(config).manifests()]
    marks = [int(one[name]["joined_through_ms"]) for one in held for name in config.rankers if name in one]
    return min(marks, default=None)


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


def schedule(config: Config) -> Schedule:
    """The clock that asks for the daily retrain."""
    bundles = registry(config)

    def trained_through_ms() -> int | None:
        newest = bundles.newest_whole(verify=False)
        return None if newest is None else int(newest.manifest["watermark_ms"])

    def retrain_through(through_ms: int) -> None:
        from deploy.wiring_training import retrain  # loads torch, which this process needs once a day

        retrain(config, through_ms)

    daily = DailyJob(
        config.schedule,
        config.archive.interval_ms,
        ArchiveReader(config.archive_dir).sealed_through_ms,
        trained_through_ms,
        retrain_through,
    )
    return Schedule(config.schedule, daily)
