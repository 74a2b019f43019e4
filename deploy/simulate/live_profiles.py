"""Users' online profiles in memory: what the server would read from the store."""

from __future__ import annotations

from collections import deque

import pyarrow as pa

from deploy.simulate.actions import KINDS, Actions
from stream.keys import encode_id
from stream.profiles import HistoryEntry, Profile, ProfileConfig


class LiveProfiles:
    """The newest events of every user by the rules of `[profiles]`, and what a site knows of its users."""

    def __init__(self, config: ProfileConfig, users: pa.Table) -> None:
        """users: user_id int64 and attributes, one row per user."""
        self._length = config.history_length
        self._history_kinds = [kind in config.history_kinds for kind in KINDS]
        self._history: dict[int, deque[HistoryEntry]] = {}
        self._attributes: dict[int, dict[str, str]] = {}
        for row in users.to_pylist():
            user = row.pop("user_id")
            self._attributes[user] = {name: str(value) for name, value in row.items()}

    def apply(self, actions: Actions, request_ids: list[str]) -> None:
        """Take in what happened, in order. request_ids: of every action, as in its event."""
        for at in [at for at, kind in enumerate(actions.kind.tolist()) if self._history_kinds[kind]]:
            user = int(actions.user[at]) + 1
            entry = HistoryEntry(
                encode_id(int(actions.item[at]) + 1),
                KINDS[actions.kind[at]],
                int(actions.ts_ms[at]),
                request_ids[at],
            )
            self._history.setdefault(user, deque(maxlen=self._length)).append(entry)

    def fetch(self, user: int) -> Profile:
        """The profile of a user ID; empty for an unknown one."""
        return Profile(
            encode_id(user), list(self._history.get(user, ())), attributes=self._attributes.get(user, {})
        )
