"""After precompile() nobody waits for the compiler: the kernels that Python calls have machine code."""

from models import frequency, history, popularity
from models.id_table_kernels import lookup, observe
from models.precompile import precompile


def test_kernels_are_compiled() -> None:
    precompile()
    kernels = [
        history._observe_and_read, frequency._observe, frequency._probability, popularity._add,
        lookup, observe,
    ]  # fmt: skip
    assert not [kernel for kernel in kernels if not kernel.signatures]
