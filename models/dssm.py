"""DSSM (Huang et al., CIKM 2013): two towers that meet in a cosine only."""

from models.two_tower import TwoTower


class DSSM(TwoTower):
    """The towers of TwoTower, with MLP or MLP and cross layers (config.cross_layers).

    What makes it DSSM is its training: one positive against negatives of its own row, listwise softmax over
    cosine / tau (1 / tau is the paper's smoothing factor). The towers never see each other's inputs: only so
    can item vectors be searched by an index.
    """
