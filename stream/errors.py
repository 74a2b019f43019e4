"""Errors of the stream: each says what, where, expected, got, and what to do next."""


class StreamError(Exception):
    """Anything that went wrong between a producer and the archive."""


class Unreachable(StreamError):
    """A service that the configuration names does not answer."""

    def __init__(self, setting: str, address: str, cause: object = None) -> None:
        because = f" ({cause})" if cause is not None else ""
        super().__init__(f"{setting}: nothing answers at {address}{because}; start it or change {setting}")
        self.setting = setting
        self.address = address

    def __reduce__(self) -> tuple[type["Unreachable"], tuple[str, str]]:
        return type(self), (self.setting, self.address)


class StoreForgot(Unreachable):
    """A store that answers but has lost what it was given: emptied, or restarted from an older state."""

    def __init__(self, setting: str, address: str) -> None:
        super().__init__(setting, address)
        self.args = (
            f"{setting}: {address} has lost what was applied (is it persistent?); the archive repairs it",
        )


class Malformed(StreamError):
    """Bytes or an event that cannot be taken in; `reason` is one of `stream.codec.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CorruptLog(StreamError):
    """A framed file is damaged somewhere other than at its torn end."""


class ArchiveLocked(StreamError):
    """Another process already writes this archive."""


class EventsRemoved(StreamError):
    """Somebody asked for events or rows that were removed for their age: nobody may take the rest for all."""
