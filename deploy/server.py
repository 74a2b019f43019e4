"""The process `serve`."""

import gc
import threading
from collections.abc import Sequence

from deploy.config import Config
from deploy.errors import StartError
from deploy.wiring import async_profiles, open_producer, pointer, registry
from deploy.wiring_counts import count_readers, popular_reader
from serving.server import AddressInUse, serve
from stream.catalogue import Catalogue
from stream.event import Event


def run_server(config: Config, stop: threading.Event) -> None:
    """Answer requests until `stop` is set. Raises Unreachable (broker, store) or StartError (port)."""
    # Each full collection looks at all that is held, the libraries' hundreds of thousands of objects too, and
    # no request goes on meanwhile: tens of milliseconds. Those never go; it need not look at them again.
    gc.collect()
    gc.freeze()
    profiles = async_profiles(config)
    with open_producer(config) as producer:
        sending = threading.Lock()  # posted events come in on several threads

        def publish(events: Sequence[Event]) -> None:
            with sending:
                producer.send_packed(events)
                producer.flush()

        try:
            serve(
                config.serving,
                stop,
                registry=registry(config),
                pointer=pointer(config),
                profiles=profiles,
                events=publish,
                catalogue=Catalogue(config.catalogue_dir),
                popular=popular_reader(config),
                counts=count_readers(config),
            )
        except AddressInUse as error:
            raise StartError(str(error)) from None
