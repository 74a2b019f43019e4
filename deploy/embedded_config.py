"""Section `[embedded]`: ports of the broker and the store that `up` runs."""

from pydantic import BaseModel, ConfigDict, Field


class EmbeddedConfig(BaseModel):
    """The broker and the store that run on this machine's loopback where an address says "embedded"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker_port: int = Field(19092, ge=0, le=65535, description="Port of the broker; 0 = any free one.")
    store_port: int = Field(16379, ge=0, le=65535, description="Port of the store; 0 = any free one.")
    ready_timeout_s: float = Field(20.0, gt=0, description="How long a service may take until it answers, s.")
