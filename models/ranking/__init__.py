"""Rankers: the pre-rank and rank stages after recall, trained on joined samples (docs/ranking.md).

Read in this order: rank_config (what can be chosen), joined (what comes in), labels and counts (what a row
becomes), row_space and number_encoding (fields as rows), inputs, the networks (factorization, mixture,
pepnet, averaged), losses, pairwise, training, learner, and published, which serves.
"""
