"""What RecBole 1.2.1 needs before it runs inside another program. Import this before anything of recbole.

- Its Config reads sys.argv and warns about, or takes over, the options of the program that uses it.
- Its Trainer opens a TensorBoard writer in the working directory; nothing here reads it.
numpy and pandas need no shims: requirements.txt pins the last versions that RecBole's code was written for.
Checkpoints are neither written nor read, so torch.load's refusal of pickles does not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import recbole.trainer.trainer


class _NoWriter:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


recbole.trainer.trainer.get_tensorboard = lambda logger: _NoWriter()


@contextmanager
def no_command_line() -> Iterator[None]:
    """Hide the program's options."""
    kept, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = kept
