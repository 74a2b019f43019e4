"""After precompile() nobody waits for the compiler: the kernels that Python calls have machine code."""

from models import frequency, history, item_cf, neighbours, popularity, swing, user_window_kernels
from models.id_table_kernels import lookup, observe
from models.precompile import precompile


def test_kernels_are_compiled() -> None:
    precompile()
    kernels = [
        history._observe, history._read, frequency._observe, frequency._probability, popularity._add,
        lookup, observe, item_cf.item_cf, swing.swing, neighbours._search, neighbours._add_up,
        user_window_kernels.observe, user_window_kernels.drop_older,
    ]  # fmt: skip
    assert not [kernel for kernel in kernels if not kernel.signatures]
