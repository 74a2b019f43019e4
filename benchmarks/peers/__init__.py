"""Other projects under the protocol of the backtest: `make peers` builds their environment, `python -m
benchmarks.peers --help` (in it) measures them.

Read in this order: positives (what is predicted, from what), peer (what a peer has to do), one of the peers,
replay (refits, tuning, test), metrics, record.
"""
