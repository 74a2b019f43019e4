"""Other projects under the protocol of the backtest: `make peers` builds their environment, `python -m
benchmarks.peers --help` (in it) measures them, `python -m benchmarks.peers.side_by_side --help` (in the
project's own) runs them on the targets of the findings and compares.

Read in this order: positives (what is predicted, from what), peer (what a peer has to do), one of the peers,
replay (refits, tuning, test), metrics, record; pairs (which model here answers which peer), side_by_side and
table (the README).
"""
