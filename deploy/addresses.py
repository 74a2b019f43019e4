"""Where "embedded" is: the loopback ports that `freshrecall up` listens on."""

from typing import TYPE_CHECKING

from deploy.errors import ConfigError

if TYPE_CHECKING:
    from deploy.config import Config

EMBEDDED = "embedded"
LOOPBACK = "127.0.0.1"


def resolved(config: "Config") -> "Config":
    """The configuration with addresses instead of "embedded". Raises ConfigError for a port that is any."""
    changes: dict[str, object] = {}
    if config.kafka.bootstrap == EMBEDDED:
        address = f"{LOOPBACK}:{_port(config.embedded.broker_port, 'broker_port', 'kafka.bootstrap')}"
        changes["kafka"] = config.kafka.model_copy(update={"bootstrap": address})
    if config.redis.url == EMBEDDED:
        url = f"redis://{LOOPBACK}:{_port(config.embedded.store_port, 'store_port', 'redis.url')}/0"
        changes["redis"] = config.redis.model_copy(update={"url": url})
    return config.model_copy(update=changes)


def _port(port: int, key: str, setting: str) -> int:
    if port == 0:
        raise ConfigError(
            f"{setting}: embedded, but embedded.{key} is 0 (any free one), so only `freshrecall up` knows "
            f"where; set embedded.{key}, or {setting} to the address that `up` printed"
        )
    return port
