"""One file per CLI verb."""
