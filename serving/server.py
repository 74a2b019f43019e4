"""The server process: the swap watcher in a thread, uvicorn on the event loop, both ended by `stop`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping

import torch
import uvicorn
import uvloop

from models.artifact import Artifact
from models.index import set_search_threads
from models.pointer import PointerStore
from models.published import PublishedModel
from models.registry import Registry
from serving import packed_history
from serving.audit import AuditLog
from serving.config import ServingConfig
from serving.fresh import CatalogueReader
from serving.http import Api, PublishEvents, build_app
from serving.live_counts import CountsFollower
from serving.metrics import ServingMetrics
from serving.popular_now import PopularFollower, PopularReader
from serving.profile import ProfileSource
from serving.swap import Served, Swapper
from serving.tower_contract import LoadTower, UserTower

_LOG = logging.getLogger(__name__)
_AUDIT_FLUSH_S = 0.5


class AddressInUse(RuntimeError):
    """Nothing can be served at the configured address."""


def load_published(bundle: Artifact, name: str) -> UserTower:
    """The recall model of a bundle, as it is served."""
    return PublishedModel.load(bundle, name)


def serve(
    config: ServingConfig,
    stop: threading.Event,
    *,
    registry: Registry,
    pointer: PointerStore,
    profiles: ProfileSource,
    events: PublishEvents,
    load_tower: LoadTower = load_published,
    catalogue: CatalogueReader | None = None,
    popular: PopularReader | None = None,
    counts: Mapping[str, PopularReader] | None = None,
    metrics: ServingMetrics | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve HTTP until `stop` is set, then finish open requests and return.

    profiles: asked on this call's event loop; `close()` is awaited at the end when it has one.
    events: called in a thread with a list of stream.event.Event for every POST /v1/events; raises when it
    cannot. catalogue: where new items come from. popular: where what is popular now is read;
    counts: where live counts of items are, by part (models.item_signals.PARTS).
    on_ready: told the address (http://host:port) as soon as requests are taken.
    Raises AddressInUse. Signals are the caller's: let SIGTERM set `stop`.
    """
    listener = _listen(config)
    swapper = Swapper(
        registry, pointer, Served(), config, load_tower, metrics or ServingMetrics(), catalogue=catalogue
    )
    audit = None
    if config.audit_file and config.audit_share > 0:
        audit = AuditLog(config.audit_file, config.audit_bytes)
    api = Api(config, swapper, profiles, events, audit)
    ended = threading.Event()
    followers = [threading.Thread(target=swapper.follow, args=(ended,), name="swap", daemon=True)]
    if popular is not None:
        following = PopularFollower(popular, swapper.served.take_popular, swapper.metrics)
        following.step()  # before the first request
        followers.append(
            threading.Thread(target=following.follow, args=(ended,), name="popular", daemon=True)
        )
    if counts:
        counting = CountsFollower(counts, swapper.served.take_counts)
        counting.step()
        followers.append(threading.Thread(target=counting.follow, args=(ended,), name="counts", daemon=True))
    # One thread per search on purpose: consumer and trainer share the machine. Channels search in threads of
    # their own (Api), similar items are found in this one.
    torch.set_num_threads(config.threads)
    set_search_threads(config.threads)
    packed_history.warm()
    for follower in followers:
        follower.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config, api, listener, stop, on_ready))
    finally:
        ended.set()
        for follower in followers:
            follower.join(timeout=30)
        api.close()
        if audit:
            audit.close()


async def _run(
    config: ServingConfig,
    api: Api,
    listener: socket.socket,
    stop: threading.Event,
    on_ready: Callable[[str], None] | None,
) -> None:
    server = _Server(
        uvicorn.Config(
            build_app(api),
            access_log=False,
            log_config=None,
            lifespan="off",
            loop="none",
            http="httptools",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    told = False
    flush_in = _AUDIT_FLUSH_S
    while not running.done():
        if stop.is_set():
            server.should_exit = True
        if server.started and not told:
            told = True
            host, port = listener.getsockname()[:2]
            _LOG.info("listening on http://%s:%d", host, port)
            if on_ready:
                on_ready(f"http://{host}:{port}")
        await asyncio.wait([running], timeout=0.05)
        flush_in -= 0.05
        if api.audit and flush_in <= 0:
            api.audit.flush()
            flush_in = _AUDIT_FLUSH_S
    close = getattr(api.profiles, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            closing = close()
            if asyncio.iscoroutine(closing):
                await closing
    await running


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for signals."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _listen(config: ServingConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise AddressInUse(
            f"serving.host / serving.port: cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another port"
        ) from error
    listener.listen(2048)
    return listener
