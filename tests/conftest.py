"""Real services for tests: a Kafka-protocol broker and a Redis-protocol store, once per session."""

import itertools
import os
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from deploy.embedded import EmbeddedBroker, EmbeddedStore

settings.register_profile("untimed", deadline=None)  # a busy machine, or the compiler, is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address of a memory-only broker."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as service:
        yield service.address


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """redis:// address of a store. Tests use their own key prefix."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as service:
        yield service.url


_numbers = itertools.count()


@pytest.fixture
def topics() -> Callable[[str], str]:
    """Names of topics that no other test uses; also good as key prefixes."""
    number = next(_numbers)
    return lambda name: f"{name}-{os.getpid()}-{number}"


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits for a condition of a real process, up to a deadline."""

    def wait(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not true within {timeout_s} s")
            time.sleep(0.01)

    return wait
