import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("process", "unwanted"),
    [
        pytest.param(
            "deploy.server, serving.server, models.published",
            "models.learner models.history",
            id="serve",
        ),
        pytest.param("deploy.scheduler", "torch models.learner", id="schedule"),
    ],
)
def test_a_process_does_not_load_what_only_training_needs(process: str, unwanted: str) -> None:
    code = f"import sys, {process}; print(*(name for name in {unwanted.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
