"""What is added to the similarity of a user and an item: fresh popularity, and the user's own items.

B rows, S side inputs of the user tower, P popularity dims, F features of an own item.
"""

import torch
from torch import Tensor, nn

_HIDDEN = 32


class ScoreHead(nn.Module):
    """score = similarity + tau * sum_p w_p(side) * popularity_p; of an own item
    own_similarity * similarity + tau * (sum_p (w_p + d_p)(side) * popularity_p + own(features)).

    All start from what is known before any training: popularity counts with the mean of its dims for
    everyone, an own item as any other item. Own items have weights of their own because what is taken again
    is less a matter of popularity: with shared ones both kinds of targets lost (docs/models.md).
    offset [1]: the constant c of the logits of losses pointwise and nce, which no answer reads.
    own_features: F, or 0 for a model without own items.
    """

    def __init__(self, side: int, popularity: int, own_features: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))
        self.popularity: nn.Linear | None = None
        if popularity:
            self.popularity = nn.Linear(side, popularity)
            nn.init.zeros_(self.popularity.weight)
            nn.init.constant_(self.popularity.bias, 1.0 / popularity)
        self.own: nn.Sequential | None = None
        self.own_popularity: nn.Linear | None = None
        if own_features:
            last = nn.Linear(_HIDDEN, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.own = nn.Sequential(nn.Linear(own_features, _HIDDEN), nn.ReLU(), last)
            self.own_similarity = nn.Parameter(torch.ones(1))
        if own_features and popularity:
            self.own_popularity = nn.Linear(side, popularity)
            nn.init.zeros_(self.own_popularity.weight)
            nn.init.zeros_(self.own_popularity.bias)

    def popularity_weights(self, side_BS: Tensor) -> Tensor:
        """Weights w float32[B, P] in units of logits (before tau); P = 0 where popularity is off."""
        if self.popularity is None:
            return side_BS.new_zeros(len(side_BS), 0)
        weights: Tensor = self.popularity(side_BS)
        return weights

    def own_popularity_weights(self, side_BS: Tensor) -> Tensor:
        """The same of an own item, w + d."""
        weights = self.popularity_weights(side_BS)
        return weights if self.own_popularity is None else weights + self.own_popularity(side_BS)

    def own_scores(self, features_nF: Tensor) -> Tensor:
        """Scores float32[n] in units of logits (before tau); ValueError for a model without own items."""
        if self.own is None:
            raise ValueError("own_scores: this model has no own items; set own_items in its configuration")
        scores: Tensor = self.own(features_nF)
        return scores.squeeze(1)
