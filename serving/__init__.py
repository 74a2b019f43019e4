"""Serving: immutable snapshots, hot swap, recall answers, HTTP."""
