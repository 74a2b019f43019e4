"""Small joined samples and an in-memory bundle for the tests of rankers."""

import numpy as np
import pyarrow as pa
import torch

from models.ranking.inputs import RankInputs, RankLayout
from models.ranking.joined import JOINED
from models.ranking.rank_config import RankConfig
from models.ranking.rank_learner import RankLearner
from tests.models.learning_data import DAY_MS, FEATURES, START_MS, catalogue

TASKS = (
    {"name": "click", "kinds": ("click",)},
    {"name": "long_view", "kinds": ("long_view", "finish"), "weight": 0.5},
    {"name": "like", "kinds": ("like",)},
)
KINDS = ("logistic", "weighted_lr", "deepfm", "mmoe", "pepnet")


def config(kind="pepnet", **changes):
    small = {
        "tasks": TASKS, "dim": 8, "hidden": (12, 8), "tower": (6,), "experts": 3, "bins": 4,
        "batch_size": 64, "author": "colour", "gate_hidden": 6, "epochs_first": 1, "lr_dense": 0.003,
        "lr_rows": 0.02, "fresh_rows": False, "final_rate": 1.0, "lr_linear": 0.05,
        "watch": {} if kind == "weighted_lr" else None,
    }  # fmt: skip
    return RankConfig(kind=kind, **{**small, **changes})


def joined(n=500, users=20, items=40, seed=0, start_ms=START_MS, span_ms=DAY_MS):
    """Users with an even number click items with an even number; a third of the clicks is a long view."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(start_ms, start_ms + span_ms, n))
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    clicked = rng.random(n) < np.where((user + item) % 2, 0.15, 0.75)
    actions = []
    for at in range(n):
        done = []
        if clicked[at]:
            done = [("click", 1.0), ("view", float(rng.integers(500, 60_000)))]
            done += [("long_view", 1.0)] if at % 3 == 0 else []
            done += [("like", 0.0)] if at % 11 == 0 else []
        actions.append(done)
    context = [[("device", "phone" if at % 2 else "desk"), ("query", f"Blue no {at % 3}")] for at in range(n)]
    return pa.table(
        {
            "event_id": [f"e{seed}-{at}" for at in range(n)],
            "ts_ms": ts,
            "user_id": ["" if value == 7 else f"#{value}" if value % 2 else f"u{value}" for value in user],
            "item_id": [f"i{value}" for value in item],
            "scene": np.where(rng.random(n) < 0.6, "home", "feed"),
            "request_id": [f"r{at // 4}" for at in range(n)],
            "context": pa.array(context, pa.map_(pa.string(), pa.string())),
            "actions": pa.array(actions, pa.map_(pa.string(), pa.float64())),
            "late": np.zeros(n, bool),
            "emitted_ms": ts + 1000,
        },
        schema=JOINED,
    )


def trained(kind="pepnet", features=FEATURES, **changes):
    learner = RankLearner.fresh(config(kind, **changes), features)
    learner.train(learner.prepare(joined(), catalogue()))
    return learner


class Files:
    """What a bundle gives: the arrays of one ranker's save()."""

    def __init__(self, learner, name="r"):
        self.manifest = {"rankers": {name: learner.describe()}}
        self._tensors = {f"rankers/{name}/{part}.safetensors": one for part, one in learner.save().items()}

    def tensors(self, name):
        return {key: array.copy() for key, array in self._tensors[name].items()}


def contents(learner):
    """Every byte of a saved ranker."""
    return {
        (part, name): (array.dtype.str, array.shape, array.tobytes())
        for part, arrays in learner.save().items()
        for name, array in arrays.items()
    }


LAYOUT = RankLayout(
    fields=5, dim=4, numbers=3, heads=3, user=0, item=2, author=3, domain_fields=(1, 4), domain_numbers=(0, 2)
)


def inputs(n=7, layout=LAYOUT, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return RankInputs(drawn(n, layout.fields, layout.dim), drawn(n, layout.heads), drawn(n, layout.numbers))
