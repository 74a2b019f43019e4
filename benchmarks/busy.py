"""A neighbour that keeps a core busy while it is there: `Worker("benchmarks.busy")`, never asked."""

from __future__ import annotations

import sys
import threading


def main() -> None:
    """Spin until stdin is closed."""
    threading.Thread(target=_spin, daemon=True).start()
    sys.stdin.read()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
