"""The project's laboratory: past events replayed in event time, test first, then train."""
