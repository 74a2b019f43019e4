"""Kafka topics: their names, the connection, and which incarnation of a topic stands behind a name."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaConfigurationError, KafkaError, KafkaTimeoutError, TopicAlreadyExistsError
from pydantic import BaseModel, ConfigDict, Field

from stream.errors import StreamError, Unreachable

SETTING = "kafka.bootstrap"


class KafkaConfig(BaseModel):
    """The broker, the topics, and how to read them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field("embedded", description="embedded, or host:port[,host:port...].")
    events: str = Field("events", description="Topic of events; dead letters go to <events>.dead.")
    items: str = Field("items", description="Topic of item upserts and deletes.")
    users: str = Field("users", description="Topic of user upserts and deletes.")
    partitions: int = Field(4, gt=0, description="Partitions of a topic that has to be created.")
    replication: int = Field(1, gt=0, description="Replicas of a topic that has to be created.")
    group_id: str = Field("freshrecall", description="Consumer group under which offsets are committed.")
    assignment: str = Field(
        "all",
        pattern="^(all|group)$",
        description="all: this process reads every partition, at once; "
        "group: partitions are shared with other archivers of the group.",
    )
    session_timeout_ms: int = Field(6_000, gt=0, description="Group session; a join takes about half of it.")
    connect_timeout_ms: int = Field(5_000, gt=0, description="How long to wait for the broker at the start.")
    queue_messages: int = Field(
        20_000, gt=0, description="Messages polled ahead of the archive before partitions are paused."
    )
    queue_bytes: int = Field(
        67_108_864, gt=0, description="The same in bytes: one append to the archive holds at most about this."
    )
    pack: int = Field(50, gt=0, description="Events per packed message.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to every Kafka client: security_protocol, sasl_*, ssl_* and the like.",
    )

    @property
    def dead(self) -> str:
        """Topic of dead letters."""
        return f"{self.events}.dead"


class TopicState(NamedTuple):
    """One topic as the broker knows it now."""

    topic_id: str
    partitions: tuple[int, ...]


class Topics:
    """Creates and describes topics. One per thread."""

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self._admin = connect(KafkaAdminClient, config)

    def ensure(self, names: Sequence[str]) -> dict[str, TopicState]:
        """The state of the topics, after creating those that are missing. Raises KafkaError."""
        known = self.describe(names)
        missing = [name for name in names if name not in known]
        for name in missing:
            topic = NewTopic(name, self.config.partitions, self.config.replication)
            with suppress(TopicAlreadyExistsError):  # another process was first
                self._admin.create_topics([topic])
        deadline = time.monotonic() + self.config.connect_timeout_ms / 1000
        while len(known) < len(set(names)):
            if time.monotonic() > deadline:
                lacking = sorted(set(names) - set(known))
                raise StreamError(f"{self.config.bootstrap}: topics {lacking} were created but do not appear")
            known = self.describe(names)
        return known

    def describe(self, names: Sequence[str]) -> dict[str, TopicState]:
        """The state of those topics that exist. Raises KafkaError while the broker is away."""
        return {
            found["name"]: TopicState(
                str(found["topic_id"]), tuple(sorted(p["partition_index"] for p in found["partitions"]))
            )
            for found in self._admin.describe_topics(list(names))
            if not found["error_code"] and found["topic_id"] and found["partitions"]
        }

    def close(self) -> None:
        """End the connection."""
        self._admin.close()

    def __enter__(self) -> Self:
        """The topics themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def connect(client: Any, config: KafkaConfig, **settings: Any) -> Any:
    """A kafka-python client of that class. Raises Unreachable if no broker answers in time."""
    options: Mapping[str, Any] = {
        "bootstrap_servers": config.bootstrap.split(","),
        "bootstrap_timeout_ms": config.connect_timeout_ms,
        **settings,
        **config.options,
    }
    try:
        return client(**options)
    except KafkaConfigurationError as error:  # an option of ours or of kafka.options, not the broker's doing
        raise StreamError(f"kafka.options: {client.__name__}: {error}") from error
    except (KafkaTimeoutError, KafkaError, OSError) as error:
        raise Unreachable(SETTING, config.bootstrap, type(error).__name__) from error
