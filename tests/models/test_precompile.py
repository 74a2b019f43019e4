"""After precompile() nobody waits for the compiler: no kernel of a usual life is compiled for new types."""

import json
import subprocess
import sys

CODE = """
import importlib, json, pkgutil
import numpy as np, torch
import models
torch.set_num_threads(1)
from models.precompile import precompile
from tests.models.learning_data import *
from models.learner import PublishedModel
from models.moments import one_moment

for module in pkgutil.iter_modules(models.__path__):
    importlib.import_module(f"models.{module.name}")

def compiled():
    found = {}
    for module in pkgutil.iter_modules(models.__path__):
        for name, value in vars(importlib.import_module(f"models.{module.name}")).items():
            if hasattr(value, "signatures") and value.__module__ == f"models.{module.name}":
                found[f"{module.name}.{name}"] = [str(one) for one in value.signatures]
    return found

precompile()
before = compiled()
for kind, option in (("youtube_dnn", "plain"), ("sequence", "all")):
    learner = trained(kind, FEATURES, **OPTIONS[option], expire_after_days=1)
    hour = events(60, seed=1, start_ms=START_MS + DAY_MS, span_ms=HOUR_MS)
    samples = learner.prepare(hour, catalogue())
    learner.train_incremental(samples)
    learner = Learner.load(Files(learner), "m")
    published = PublishedModel.load(Files(learner), "m")
    for model in (learner, published):
        model.queries(learner.moments(samples))
        model.queries(one_moment("u2", START_MS, [("i1", START_MS - 5)], {"query": "Blue no 1"}))
    touched = learner.touched()
    keys, _ = learner.item_vectors()
    published.with_rows({name: (rows.keys, rows.rows) for name, rows in touched.items() if name == "user"})
    learner.expire(START_MS + 2 * DAY_MS)
after = compiled()
print(json.dumps({
    "kernels": len(before),
    "later": {name: signatures for name, signatures in after.items() if signatures != before[name]},
}))
"""


def test_nothing_is_compiled_after_precompile() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["kernels"] > 50
    assert found["later"] == {}
