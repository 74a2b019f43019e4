"""Broker and store are asked for before heavy libraries load, so that an absent one shows at once."""

from deploy.config import Config
from stream.profiles import Profiles
from stream.topics import Topics


def require_services(config: Config) -> None:
    """Reach Kafka, create its missing topics, and reach the store.

    Raises Unreachable, which names the address and the setting.
    """
    kafka = config.kafka
    with Topics(kafka) as topics:
        topics.ensure([kafka.events, kafka.dead, kafka.items, kafka.users])
    Profiles(config.redis.url, config.profiles).close()
