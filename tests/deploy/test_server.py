"""The process `serve`, but for the serving."""

import contextlib
import gc
import threading

import pytest

from deploy import server
from deploy.config import Config


def test_what_the_libraries_made_is_never_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(server, "open_producer", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(server, "async_profiles", lambda config: None)
    monkeypatch.setattr(server, "serve", lambda *given, **named: frozen.append(gc.get_freeze_count()))
    monkeypatch.setattr(server, "popular_reader", lambda config: None)
    monkeypatch.setattr(server, "count_readers", lambda config: {})
    held = len(gc.get_objects())
    try:
        server.run_server(Config(), threading.Event())
    finally:
        gc.unfreeze()
    assert frozen[0] > held / 2
