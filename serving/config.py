"""Configuration of the server."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ServingConfig(BaseModel):
    """How recall is served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    threads: int = Field(1, ge=1, description="Threads of one search and of one tower.")
    clock: Literal["wall", "event"] = Field(
        "wall",
        description="Moment of a request that names none: wall time, or the newest event time (replays).",
    )
    models: tuple[str, ...] = Field(
        (), description="Recall models and item-to-item channels to serve, best first; empty = all."
    )
    profile_timeout_s: float = Field(
        0.2, gt=0, description="After this long a profile counts as not available."
    )
    poll_interval_s: float = Field(
        1.0, gt=0, description="How often the pointer is read when no notice arrives."
    )
    retry_interval_s: float = Field(10.0, ge=0, description="Pause before a refused version is tried again.")
    max_body_bytes: int = Field(4_194_304, gt=0, description="Largest request body that is read.")
    audit_file: Path | None = Field(
        None, description="Where audited answers go (JSON lines), with their inputs."
    )
    audit_share: float = Field(
        1.0, ge=0, le=1, description="Share of answers that are audited, when there is a file."
    )
