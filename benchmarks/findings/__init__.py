"""The measurements behind docs/findings.md: `make findings` runs what is missing, writes results and tables.

Read in this order: experiments (what is compared), data (on what), configuration (with which settings), runs
and runner (a backtest each, in child processes), hits (what is kept of one), comparisons and results
(differences, intervals), figures and tables (the pages).
"""
