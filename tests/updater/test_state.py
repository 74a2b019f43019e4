"""What popularity counts: the targets of the models, so a (request, item) once, whatever followed it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from models.model_config import ModelConfig
from tests.updater.world import CONFIG, EMPTY, HOUR, RECIPE, START
from updater.sample_order import in_time_order
from updater.state import Recipe, TrainingState

BOTH = ("click", "long_view")


def table(*rows: tuple[str, str, str, str, int]) -> pa.Table:
    """Events (user, item, kind, request, ts_ms after START)."""
    user, item, kind, request, ts = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": list(user),
            "item_id": list(item),
            "kind": list(kind),
            "scene": [""] * len(rows),
            "request_id": list(request),
            "ts_ms": START + np.array(ts, np.int64),
        }
    )


# A click and its long view, another pair across the end of the hour, the same item of another request and of
# none, a stranger's, and what counts for nobody.
FIRST = table(
    ("a", "x", "click", "r1", 0),
    ("a", "x", "long_view", "r1", 1),
    ("a", "y", "click", "r1", 2),
    ("b", "x", "long_view", "r2", 3),
    ("b", "x", "click", "", 4),
    ("", "x", "click", "r3", 5),
    ("b", "", "click", "r2", 6),
    ("b", "z", "view", "r2", 7),
)
SECOND = table(("a", "y", "long_view", "r1", HOUR), ("a", "y", "click", "r4", HOUR + 1))


def recipe(*positives: tuple[str, ...]) -> Recipe:
    models: dict[str, ModelConfig] = {
        f"m{at}": CONFIG.model_copy(update={"positives": kinds}) for at, kinds in enumerate(positives)
    }
    return replace(RECIPE, models=models, positives=BOTH, popularity_half_life_ms=10**15)


def counts(state: TrainingState) -> dict[str, int]:
    keys, scores = state.popularity.top(10)
    return {key: round(score) for key, score in zip(keys.to_pylist(), scores.tolist(), strict=True)}


@pytest.mark.parametrize("positives", [(BOTH,), (("click",), BOTH[::-1])])
@pytest.mark.parametrize("how", ["advance", "observe", "retrain"])
def test_popularity_counts_a_request_and_item_once(positives: tuple[tuple[str, ...], ...], how: str) -> None:
    state = TrainingState.fresh(recipe(*positives))
    if how == "retrain":
        stretches = [(FIRST, EMPTY), (SECOND, EMPTY)]
        state.retrain(stretches, START + 2 * HOUR, in_time_order, first=False)
    elif how == "observe":
        state.observe(FIRST, EMPTY)
        state.observe(SECOND, EMPTY)
    else:
        state.advance(FIRST, EMPTY, START + HOUR)
        state.advance(SECOND, EMPTY, START + 2 * HOUR)
    assert counts(state) == {"x": 4, "y": 2}


def test_popularity_counts_every_event_where_no_model_has_its_positives() -> None:
    state = TrainingState.fresh(recipe(("click",), ("long_view",)))
    state.advance(FIRST, EMPTY, START + HOUR)
    state.advance(SECOND, EMPTY, START + 2 * HOUR)
    assert counts(state) == {"x": 5, "y": 3}
