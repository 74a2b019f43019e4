"""Section `[metrics]`: where the consumer shows its counts."""

from pydantic import BaseModel, ConfigDict, Field


class MetricsConfig(BaseModel):
    """Prometheus metrics of the consumer; the server has its own at /metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    consume_port: int = Field(0, ge=0, le=65535, description="Port of the consumer's /metrics; 0 = none.")
