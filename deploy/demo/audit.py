"""The demo's proof that no answer mixes versions: audited answers are computed again from their files."""

from __future__ import annotations

from pathlib import Path

from deploy.config import Config
from deploy.wiring import registry
from models.published import PublishedModel
from serving.audit import AuditCheck, read_audit


def check_answers(config: Config, file: Path) -> tuple[int, list[str]]:
    """Recompute every audited answer; returns (how many, what differs beyond 1e-5 relative)."""
    # In the order of their versions, so that each bundle with its deltas is opened once.
    records = sorted(read_audit(file), key=lambda one: (one.answer.bundle, one.answer.delta))
    check = AuditCheck(registry(config), PublishedModel.load)
    mixed = []
    for record in records:
        found = check.recompute(record)
        if found.mixed:
            version = f"{record.answer.bundle}/{record.answer.delta}"
            mixed.append(f"user {record.request.user_id} at {version}: {found.mixed}")
    return len(records), mixed
