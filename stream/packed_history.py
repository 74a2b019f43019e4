"""A user's history as the store packed it: read in place, without an object for every entry."""

from __future__ import annotations
