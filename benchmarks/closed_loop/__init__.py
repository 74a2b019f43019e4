"""The closed loop in the simulator: what learning, hourly steps, pre-rank and its rejects do to the lists.

`python -m benchmarks.closed_loop`; resumable, everything SIMULATED. Read in this order: arms (who is
compared, with system.toml), by_user (what is counted), runs (one arm in one world), results (differences,
intervals), plot and page (docs/simulate.md).
"""
