"""Where bundles and deltas are kept: publishing, listing, the chain of deltas to a sequence, retention.

Layout under the root: `bundles/<bundle_id>/`, `deltas/<bundle_id>/<sequence>[-cumulative]/`, `pointer.json`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.artifact import TEMPORARY, Artifact, ArtifactError, Content, Verify, remove, sweep
from models.bundle import BundleFields, open_bundle, write_bundle
from models.delta import Delta, delta_path, open_delta, write_delta
from models.pointer import read_pointer_file

_LOG = logging.getLogger(__name__)
_DELTA_NAME = re.compile(r"(\d{6,})(-cumulative)?")


@dataclass(frozen=True, order=True)
class DeltaRef:
    """A published delta: its bundle, its sequence, and whether it holds everything since the bundle."""

    bundle: str
    sequence: int
    cumulative: bool


class MissingDelta(LookupError):
    """No chain of published deltas leads from one sequence to another."""


class Registry:
    """Bundles and deltas under one directory. Any number of processes may read and publish."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish_bundle(self, files: Mapping[str, Content], fields: BundleFields) -> str:
        """Publish a bundle and return its id (models/bundle.py `write_bundle`)."""
        return write_bundle(self.root, files, fields)

    def publish_delta(self, delta: Delta) -> DeltaRef:
        """Publish a delta; its bundle must exist. Same bytes again are fine, others raise PublishConflict."""
        base = delta.fields.base
        if not (self.root / "bundles" / base).is_dir():
            raise FileNotFoundError(
                f"{self.root / 'bundles' / base}: expected the base of delta {delta.fields.sequence}, got "
                "nothing; publish the bundle first"
            )
        name = write_delta(self.root, delta).root.name
        return DeltaRef(base, delta.fields.sequence, name.endswith("-cumulative"))

    def open_bundle(self, bundle: str, verify: Verify = True) -> Artifact:
        """Open a bundle. Raises ArtifactError when it is not whole."""
        return open_bundle(self.root, bundle, verify)

    def open_delta(self, ref: DeltaRef, verify: bool = True) -> Delta:
        """Read a delta. Raises ArtifactError when it is not whole."""
        return open_delta(delta_path(self.root, ref.bundle, ref.sequence, ref.cumulative), ref.bundle, verify)

    def bundles(self) -> list[str]:
        """Ids of every published bundle, by watermark."""
        return _directories(self.root / "bundles")

    def latest_bundle(self) -> str | None:
        """The published bundle with the highest watermark (not necessarily the one that is served)."""
        bundles = self.bundles()
        return bundles[-1] if bundles else None

    def newest_whole(self, verify: bool = True) -> Artifact | None:
        """The newest bundle that can be opened; damaged ones are logged and passed over. None: none."""
        for bundle in reversed(self.bundles()):
            try:
                return self.open_bundle(bundle, verify)
            except ArtifactError as error:
                _LOG.error("bundle %s is passed over: %s", bundle, error)
        return None

    def manifests(self) -> list[Mapping[str, Any]]:
        """Manifests of the bundles that can be opened, by watermark; their files are not verified."""
        found: list[Mapping[str, Any]] = []
        for bundle in self.bundles():
            with contextlib.suppress(ArtifactError):  # or it was pruned just now
                found.append(self.open_bundle(bundle, verify=False).manifest)
        return found

    def deltas(self, bundle: str) -> list[DeltaRef]:
        """Every published delta of a bundle, by sequence."""
        matches = (_DELTA_NAME.fullmatch(name) for name in _directories(self.root / "deltas" / bundle))
        return sorted(DeltaRef(bundle, int(m[1]), m[2] is not None) for m in matches if m)

    def chain(
        self, bundle: str, from_sequence: int, to_sequence: int, avoid: Collection[DeltaRef] = ()
    ) -> list[DeltaRef]:
        """What to apply, in order, on a state at `from_sequence` to reach `to_sequence`.

        Increments when all are there, else the newest cumulative delta and the increments after it; `avoid`
        names deltas found damaged. Raises MissingDelta when neither leads there.
        """
        held = [ref for ref in self.deltas(bundle) if ref not in avoid]
        increments = {ref.sequence: ref for ref in held if not ref.cumulative}
        starts = [ref for ref in held if ref.cumulative and from_sequence < ref.sequence <= to_sequence]
        for start in [None, *reversed(starts)]:
            first = start.sequence if start else from_sequence
            wanted = range(first + 1, to_sequence + 1)
            if all(sequence in increments for sequence in wanted):
                return ([start] if start else []) + [increments[sequence] for sequence in wanted]
        got = [f"{ref.sequence}{'-cumulative' if ref.cumulative else ''}" for ref in held]
        damaged = sorted(f"{ref.sequence}{'-cumulative' if ref.cumulative else ''}" for ref in avoid)
        raise MissingDelta(
            f"{self.root / 'deltas' / bundle}: expected deltas {from_sequence + 1}..{to_sequence} or a "
            f"cumulative one, got {', '.join(got) or 'none'}"
            + (f" (damaged: {', '.join(damaged)})" if damaged else "")
        )

    def prune(self, keep: int, pointed: Collection[str] = ()) -> list[str]:
        """Remove all but the newest `keep` bundles, with their deltas; returns the removed ids.

        Bundles named by `pointed` or by the pointer file are never removed. Also clears what dead writers
        left.
        """
        if keep < 1:
            raise ValueError(f"keep: expected at least 1, got {keep}")
        current = read_pointer_file(self.root)
        safe = {*pointed, *self.bundles()[-keep:], *([current.bundle] if current else [])}
        removed = [bundle for bundle in self.bundles() if bundle not in safe]
        for bundle in removed:
            remove(self.root / "bundles" / bundle)
        # Deltas go after their bundle: without it they are unreachable, and a crash here is finished next
        # time.
        # Listed before the bundles: whatever has deltas here had its bundle published by then.
        listed = _directories(self.root / "deltas")
        for bundle in sorted(set(listed) - set(self.bundles())):
            remove(self.root / "deltas" / bundle)
        for parent in (self.root / "bundles", self.root / "deltas", *(self.root / "deltas").glob("*")):
            sweep(parent)
        return removed


def _directories(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith(TEMPORARY))
