"""The measurements behind docs/ranking.md: `python -m benchmarks.rankers --kuairand DIR`.

Read in this order: joined_events (the data), experiments (what is compared), metrics (AUC, GAUC, intervals),
runs (one training and its test days), results and page.
"""
