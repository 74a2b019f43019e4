import numpy as np
import pytest
import torch

from models.losses import (
    corrected_softmax,
    listwise,
    nce_loss,
    pairwise_hinge,
    pairwise_logistic,
    pointwise_bce,
)


def in_batch_softmax(u_BD, v_BD, log_q_B, item_B, weight_B, tau, negatives=None):
    """In-batch softmax with logQ correction, s = u.v / tau - log q (Yi et al., RecSys 2019, section 3)."""
    hit_BK = item_B[:, None] == item_B[None, :negatives]
    positive_B = (u_BD * v_BD).sum(1) / tau - log_q_B
    negative_BK = u_BD @ v_BD[:negatives].T / tau - log_q_B[:negatives]
    return corrected_softmax(positive_B, negative_BK, hit_BK, weight_B)


def sampled_softmax(u_BD, v_BD, v_KD, log_expected_B, log_expected_K, hit_BK, weight_B):
    """Sampled softmax with K shared negatives (Jean et al., 2015)."""
    positive_B = (u_BD * v_BD).sum(1) - log_expected_B
    return corrected_softmax(positive_B, u_BD @ v_KD.T - log_expected_K, hit_BK, weight_B)


LOSSES = {
    "softmax": corrected_softmax,
    "listwise": listwise,
    "nce": nce_loss,
    "pointwise": lambda p, n, h, w: pointwise_bce(p, n, h, w, bias=0.3),
    "hinge": lambda p, n, h, w: pairwise_hinge(p, n, h, w, margin=0.7),
    "logistic": lambda p, n, h, w: pairwise_logistic(p, n, h, w, sigma=1.7),
}


def by_definition(name, positive, negatives):
    """One row's loss as its formula reads, in plain NumPy; negatives without the hits."""
    if name in ("softmax", "listwise"):
        return -np.log(np.exp(positive) / (np.exp(positive) + np.exp(negatives).sum()))
    if name == "nce":
        return -np.log(1 / (1 + np.exp(-positive))) - np.log(1 - 1 / (1 + np.exp(-negatives))).sum()
    if name == "pointwise":
        p = 1 / (1 + np.exp(-np.append(positive, negatives) - 0.3))
        return -np.log(np.append(p[:1], 1 - p[1:])).mean()
    if name == "hinge":
        return np.maximum(0, negatives - positive + 0.7).mean() if len(negatives) else 0.0
    return np.log(1 + np.exp(1.7 * (negatives - positive))).mean() if len(negatives) else 0.0


@pytest.fixture
def batch():
    """Logits of 4 rows with 5 negatives, some of which are hits (all of the last row's), and weights."""
    generator = torch.Generator().manual_seed(2)
    positive = torch.randn(4, generator=generator, dtype=torch.float64)
    negative = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    hit = torch.zeros(4, 5, dtype=torch.bool)
    hit[0, 1] = hit[2, 0] = hit[2, 4] = True
    hit[3] = True
    return positive, negative, hit, torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name, batch):
    positive, negative, hit, weight = batch
    rows = [
        by_definition(name, float(p), n[~h].numpy()) for p, n, h in zip(positive, negative, hit, strict=True)
    ]
    loss = LOSSES[name](positive, negative, hit, weight)
    assert float(loss) == pytest.approx(np.average(rows, weights=weight.numpy()), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_numeric_ones(name, batch):
    positive, negative, hit, weight = batch
    positive.requires_grad_()
    negative.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: LOSSES[name](p, n, hit, weight), (positive, negative))
    LOSSES[name](positive, negative, hit, weight).backward()
    assert negative.grad[hit].abs().max() == 0  # a hit is pushed nowhere
    assert (negative.grad[~hit] >= 0).all()  # no true negative is pulled towards the user
    assert (positive.grad <= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_stay_finite(name):
    positive = torch.tensor([-900.0, 900.0], requires_grad=True)
    negative = torch.tensor([[900.0, -900.0], [-900.0, 900.0]], requires_grad=True)
    LOSSES[name](positive, negative, torch.zeros(2, 2, dtype=torch.bool), torch.ones(2)).backward()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()


def test_listwise_temperature_by_hand():
    # Cosines (1, -1, -1, -1), the best there can be: log(1 + 3 e^(-2/tau)).
    def loss(tau):
        positive = torch.ones(1, dtype=torch.float64) / tau
        negative = -torch.ones(1, 3, dtype=torch.float64) / tau
        return float(listwise(positive, negative, torch.zeros(1, 3, dtype=torch.bool), torch.ones(1)))

    assert loss(1.0) == pytest.approx(0.341, abs=5e-4)
    assert loss(0.2) == pytest.approx(np.log1p(3 * np.exp(-10)), rel=1e-3)
    assert loss(0.2) < loss(0.5) < loss(1.0)


def test_a_raw_cosine_cannot_fit_a_positive():
    # sigmoid(1) = 0.73 caps the raw cosine: the loss stays above -log 0.73; gamma lifts the cap.
    def loss(gamma):
        cosine, none = torch.tensor([1.0]), torch.empty(1, 0)
        return float(pointwise_bce(gamma * cosine, none, none.bool(), torch.ones(1)))

    assert np.exp(-loss(1.0)) == pytest.approx(0.731, abs=5e-4)
    assert loss(20.0) < 1e-8


def test_several_positives_share_the_label():
    # A row's loss is the mean over its positives of -log softmax among all positives and negatives.
    positive = torch.tensor([[1.0, 2.0], [0.5, 9.0], [7.0, 7.0]], requires_grad=True)
    negative = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
    true = torch.tensor([[True, True], [True, False], [False, False]])
    hit = torch.tensor([[False], [False], [True]])
    loss = corrected_softmax(positive, negative, hit, torch.tensor([1.0, 3.0, 5.0]), true)
    first = np.log(np.exp([1, 2, 0]).sum()) - 1.5
    second = np.log(np.exp([0.5, 1]).sum()) - 0.5
    assert float(loss.detach()) == pytest.approx((first + 3 * second) / 4, rel=1e-6)
    loss.backward()
    assert positive.grad[~true].abs().max() == 0
    assert negative.grad[2] == 0
    assert torch.isfinite(positive.grad).all()
    all_true = corrected_softmax(positive, negative, hit, torch.ones(3))
    masked = corrected_softmax(positive, negative, hit, torch.ones(3), torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(all_true, masked)


def test_nce_with_several_positives_by_hand():
    positive, negative = torch.tensor([[1.0, 2.0], [0.5, 9.0]]), torch.tensor([[0.0], [1.0]])
    true, hit = torch.tensor([[True, True], [True, False]]), torch.zeros(2, 1, dtype=torch.bool)
    loss = nce_loss(positive, negative, hit, torch.ones(2), true)

    def cross_entropy(logit, label):
        p = 1 / (1 + np.exp(-logit))
        return -label * np.log(p) - (1 - label) * np.log(1 - p)

    first = cross_entropy(1, 0.5) + cross_entropy(2, 0.5) + cross_entropy(0, 0)
    second = cross_entropy(0.5, 1) + cross_entropy(1, 0)
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-6)


def test_nce_finds_the_log_share_of_the_data():
    # Logits that are log p(item) minimise NCE: its gradient vanishes when data and noise are in their shares.
    data, noise, k = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 4
    score = torch.tensor(np.log(data), requires_grad=True)
    corrected = score - torch.tensor(np.log(k * noise))
    targets, drawn = corrected, corrected.repeat(3, 1)
    true = nce_loss(targets, torch.empty(3, 0), torch.empty(3, 0, dtype=torch.bool), torch.tensor(data))
    # k draws by noise share: every item's softplus weighted k * share, the same for each row.
    false = (torch.nn.functional.softplus(drawn[0]) * torch.tensor(k * noise)).sum()
    (true + false).backward()
    np.testing.assert_allclose(score.grad.numpy(), 0, atol=1e-12)


def test_in_batch_softmax_by_hand():
    # u.v/tau = [[1, 0], [0, 2]]; log q = log(.5), log(.25)
    u, v = torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.eye(2)
    q = np.array([0.5, 0.25])
    loss = in_batch_softmax(
        u, v, torch.tensor(np.log(q), dtype=torch.float32), torch.tensor([1, 2]), torch.ones(2), 0.5
    )
    first = -np.log((np.e / 0.5) / (np.e / 0.5 + 1 / 0.25))
    second = -np.log((np.e**2 / 0.25) / (np.e**2 / 0.25 + 1 / 0.5))
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-6)


def test_weights_are_shares():
    torch.manual_seed(0)
    u, v, q, items = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3), torch.arange(3)
    only = [
        float(in_batch_softmax(u, v, q, items, torch.tensor([float(i == j) for j in range(3)]), 1.0))
        for i in range(3)
    ]
    mixed = float(in_batch_softmax(u, v, q, items, torch.tensor([1.0, 2.0, 5.0]), 1.0))
    assert mixed == pytest.approx((only[0] + 2 * only[1] + 5 * only[2]) / 8, rel=1e-5)


@pytest.mark.parametrize("negatives", [None, 3])
def test_gradient_is_the_numeric_one(negatives):
    generator = torch.Generator().manual_seed(1)
    u, v = (torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    q = torch.rand(5, generator=generator, dtype=torch.float64).log()
    weight = torch.rand(5, generator=generator, dtype=torch.float64)
    items = torch.tensor([3, 1, 3, 2, 0])
    assert torch.autograd.gradcheck(
        lambda a, b: in_batch_softmax(a, b, q, items, weight, 0.3, negatives), (u, v)
    )


def test_accidental_hits_are_no_negatives():
    torch.manual_seed(0)
    u, v = torch.randn(3, 4), torch.randn(3, 4)
    q = torch.zeros(3)
    v[2] = v[0]
    repeated = in_batch_softmax(u[:1], v[:1], q[:1], torch.tensor([7]), torch.ones(1), 1.0)
    assert float(repeated) == pytest.approx(0.0)  # alone with itself
    weight = torch.tensor([1.0, 0.0, 0.0])
    with_hit = in_batch_softmax(u, v, q, torch.tensor([7, 8, 7]), weight, 1.0)
    without = in_batch_softmax(u[:2], v[:2], q[:2], torch.tensor([7, 8]), weight[:2], 1.0)
    assert float(with_hit) == pytest.approx(float(without), rel=1e-6)


def test_sampled_softmax_with_all_items_and_their_counts_is_the_full_softmax():
    # Every item drawn once with expected count 1: the sampled loss is the full softmax over all items.
    torch.manual_seed(0)
    u, items = torch.randn(4, 8), torch.randn(10, 8)
    positive = torch.tensor([2, 5, 5, 9])
    hits = positive[:, None] == torch.arange(10)[None, :]
    loss = sampled_softmax(u, items[positive], items, torch.zeros(4), torch.zeros(10), hits, torch.ones(4))
    full = torch.nn.functional.cross_entropy(u @ items.T, positive)
    assert float(loss) == pytest.approx(float(full), rel=1e-5)


def test_expected_counts_are_subtracted():
    u, v, negatives = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [0.5, 0.0]]),
    )
    expected_positive, expected_negatives = np.log([0.2]), np.log([0.5, 3.0])
    loss = sampled_softmax(
        u,
        v,
        negatives,
        torch.tensor(expected_positive, dtype=torch.float32),
        torch.tensor(expected_negatives, dtype=torch.float32),
        torch.zeros(1, 2, dtype=torch.bool),
        torch.ones(1),
    )
    parts = np.exp([2 - expected_positive[0], 1 - expected_negatives[0], 0.5 - expected_negatives[1]])
    assert float(loss) == pytest.approx(-np.log(parts[0] / parts.sum()), rel=1e-5)


def test_a_batch_without_weight_teaches_nothing():
    u_BD = torch.randn(4, 4, requires_grad=True)
    loss = in_batch_softmax(u_BD, u_BD, torch.zeros(4), torch.arange(4), torch.zeros(4), 0.07)
    loss.backward()
    assert loss.item() == 0
    assert u_BD.grad.abs().max() == 0


@pytest.mark.parametrize("gap", [0.0, 40.0, 80.0, 300.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_positive_far_from_its_negatives_costs_what_it_is_behind(gap, sign):
    """Also where its share is too small for a float32, or all there is."""
    positive = torch.tensor([sign * gap, 0.0], requires_grad=True)
    negative = torch.zeros(2, 7)
    none = torch.zeros(2, 7, dtype=torch.bool)
    loss = corrected_softmax(positive, negative, none, torch.tensor([1.0, 0.0]))
    expected = np.log1p(7 * np.exp(-sign * np.float64(gap)))
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    loss.backward()
    assert positive.grad[0].item() == pytest.approx(np.expm1(-expected), abs=1e-6)
