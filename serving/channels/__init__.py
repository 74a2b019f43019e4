"""Where candidates come from: one contract, one file per kind of channel."""
