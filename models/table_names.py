"""The tables of one model: names, widths and saved parts. Light: serving reads this, and only training loads
what fills tables.

"user", "item" and one per category feature ("item.department"). "history_item", where a model pools
histories over rows of their own, has embedding rows only: its keys are those of "item".
"""

from models.arrays import Tensors
from models.model_config import FeatureConfig, ModelConfig


def ids_name(table: str) -> str:
    """The ID table that gives `table` its rows."""
    return "item" if table == "history_item" else table


def row_widths(config: ModelConfig, features: tuple[FeatureConfig, ...]) -> dict[str, int]:
    """Embedding tables of a model and their widths."""
    widths = {"user": config.id_dim, "item": config.item_dim}
    if not config.shared_items:
        widths["history_item"] = config.id_dim
    fields = [feature for feature in features if feature.kind != "number"]
    # The fields of a factorisation machine are all as wide as an ID row.
    return widths | {one.table: config.id_dim if config.kind == "fm" else one.dim for one in fields}


def ids_state(part: Tensors) -> Tensors:
    """The ID table's arrays of a "table.<name>" part."""
    return {key.removeprefix("ids."): array for key, array in part.items() if key.startswith("ids.")}
