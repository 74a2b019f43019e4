import math
from dataclasses import replace
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch

from models.architecture import build_model, dense_weights, feature_sides, restore_weights
from models.cross_network import CrossNetwork
from models.mind import MIND
from models.model_config import FeatureConfig, Kind, ModelConfig
from models.score_head import ScoreHead
from models.sequence import SequenceTower
from models.towers import SHORTEST, HistorySequence, ItemInputs, SideWidth, UserInputs
from models.towers import unit as unit_length

KINDS = get_args(Kind)
COSINES = tuple(kind for kind in KINDS if kind not in ("youtube_dnn", "fm"))
LENGTH, WIDTH, ROWS = 9, 8, 6
SIZES = (0, 1, 3, 4, 8, 9)  # items in the history of each of the six users

FEATURES = (
    FeatureConfig(name="town", source="user", dim=WIDTH),
    FeatureConfig(name="age", source="user", kind="number"),
    FeatureConfig(name="brand", source="item", dim=WIDTH),
    FeatureConfig(name="colour", source="item", dim=WIDTH),
    FeatureConfig(name="price", source="item", kind="number"),
)


def config_of(kind, **fields):
    given = {
        "dim": WIDTH,
        "id_dim": WIDTH,
        "hidden": (12,),
        "history_length": LENGTH,
        "dropout": 0.0,
        "seed": 3,
        "precision": "float32",
    }
    return ModelConfig(kind=kind, **{**given, **fields})


def towers_of(kind, trained=True, **fields):
    """The towers, in float64; `trained`: all weights random, so that no part is at its start."""
    config = config_of(kind, **fields)
    towers = build_model(config, *feature_sides(config, FEATURES)).towers.double()
    if trained:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in towers.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return towers


def sequence_of(sizes=SIZES, length=LENGTH, seed=5):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) >= length - torch.tensor(sizes)[:, None]
    rows = torch.randn(len(sizes), length, WIDTH, generator=generator, dtype=torch.float64)
    age_s = torch.rand(len(sizes), length, generator=generator) * 1e6
    return HistorySequence(rows * mask[:, :, None], mask, age_s)


def users_of(sequence=None, seed=1, **fields):
    generator = torch.Generator().manual_seed(seed)
    sequence = sequence_of() if sequence is None else sequence
    user, town, age = (
        torch.randn(len(sequence.rows), width, generator=generator, dtype=torch.float64)
        for width in (WIDTH, WIDTH, 2)
    )
    size = sequence.mask.sum(1).double()
    mean = sequence.rows.sum(1) / size.clamp_min(1)[:, None]
    return UserInputs(user, mean, size, [town], age, sequence=sequence, **fields)


def items_of(n=4, seed=2):
    generator = torch.Generator().manual_seed(seed)
    item, brand, colour, price = (
        torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (WIDTH, WIDTH, WIDTH, 2)
    )
    return ItemInputs(item, [brand, colour], price)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SHORTEST)


def close(got, expected):
    np.testing.assert_allclose(
        got.detach().numpy() if isinstance(got, torch.Tensor) else got,
        expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected,
        atol=1e-9,
    )


# Every kind


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_lengths_and_the_vector_of_a_target(kind):
    towers = towers_of(kind)
    u_BVD, v_ND = towers.user_vectors(users_of()), towers.item_vectors(items_of(ROWS))
    assert u_BVD.shape == (ROWS, 4 if kind == "mind" else 1, WIDTH)
    assert v_ND.shape == (ROWS, WIDTH)
    assert towers.for_target(u_BVD, v_ND).shape == (ROWS, WIDTH)
    assert towers.unit_length == (kind in COSINES)
    if towers.unit_length:
        close(u_BVD.norm(dim=2), np.ones(u_BVD.shape[:2]))
        close(v_ND.norm(dim=1), np.ones(ROWS))
    nobody = users_of(sequence_of(sizes=()))
    assert towers.user_vectors(nobody).shape == (0, *u_BVD.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_a_user_is_the_row_and_the_history(kind):
    towers, users, items = towers_of(kind, trained=False), users_of(), items_of()
    u_BVD, v_ND = towers.user_vectors(users), towers.item_vectors(items)
    expected = users.user + users.history
    if kind == "mind":
        expected = users.user + towers.capsules(users.sequence)[:, 0]
    if kind == "sequence":
        expected = expected + users.sequence.rows[:, -1]
    if kind == "fm":
        expected = expected + users.categories[0]
    if kind in COSINES:
        close(u_BVD[:, 0], unit(expected.detach().numpy()))
        close(v_ND, unit(items.item.numpy()))
    else:
        close(u_BVD[:, 0, :-1], expected[:, :-1])
        close(u_BVD[:, 0, -1], np.ones(ROWS))


@pytest.mark.parametrize("kind", COSINES)
@pytest.mark.parametrize("dim", [3 * WIDTH, WIDTH // 2])
def test_rows_of_another_width_start_through_one_map(kind, dim):
    towers = towers_of(kind, trained=False, dim=dim)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    item = towers.item_tower.around(rows)
    for part in range(2):  # the user's row and the history
        ids = torch.zeros(ROWS, towers.user_tower.around.in_features, dtype=torch.float64)
        ids[:, part * WIDTH : (part + 1) * WIDTH] = rows
        close(towers.user_tower.around(ids), item)
    kept = item if dim > WIDTH else towers.item_tower.around.weight
    basis = rows if dim > WIDTH else torch.eye(dim, dtype=torch.float64)
    np.testing.assert_allclose((kept @ kept.T).detach(), basis @ basis.T, atol=1e-5)  # drawn in float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", [False, True])
def test_empty_histories_and_zero_rows_have_finite_gradients(kind, trained):
    towers = towers_of(kind, trained)
    empty = sequence_of(sizes=(0,) * ROWS)
    zero = torch.zeros(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    rows = empty.rows.clone().requires_grad_()
    users = replace(users_of(replace(empty, rows=rows)), user=zero, history=zero)
    items = ItemInputs(zero, [zero, zero], torch.zeros(ROWS, 2, dtype=torch.float64))
    u_BVD, v_ND = towers.user_vectors(users), towers.item_vectors(items)
    score = (towers.for_target(u_BVD, v_ND) * v_ND).sum() + u_BVD.sum() + v_ND.sum()
    score.backward()
    assert torch.isfinite(u_BVD).all()
    assert torch.isfinite(v_ND).all()
    gradients = [zero.grad, rows.grad, *(parameter.grad for parameter in towers.parameters())]
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_the_gradient_of_a_short_vector_is_bounded():
    for size, expected in ((0.0, 1 / SHORTEST), (1e-6, 1 / SHORTEST), (0.5, 0.0)):
        x = torch.tensor([[size, 0.0]], requires_grad=True)
        unit_length(x)[0, 0].backward()
        assert x.grad[0, 0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_numeric_ones(kind):
    # Along one random direction through all weights and all inputs at once.
    # (Routing rounds before the last are held fixed in the gradient: see the test of that.)
    config = {"routing_iterations": 1, "cross_layers": 2, "histories": {"views": {"kinds": ["view"]}}}
    towers = towers_of(kind, **config)
    users, items = users_of(), items_of(ROWS)
    generator = torch.Generator().manual_seed(4)
    view = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    target = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    leaves = [
        *towers.parameters(),
        *(users.user, users.history, *users.categories, users.numbers, users.sequence.rows, view),
        *(items.item, *items.categories, items.numbers),
    ]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    names = [name for name, _ in towers.named_parameters()]

    def value(leaves):
        weights = dict(zip(names, leaves, strict=False))
        user, history, town, age, rows, view, item, brand, colour, price = leaves[len(names) :]
        sequence = replace(users.sequence, rows=rows)
        given = UserInputs(user, history, users.history_size, [town], age, {"views": view}, sequence)
        u_BVD = torch.func.functional_call(_Users(towers), weights_of(weights), (given,))
        v_ND = torch.func.functional_call(
            _Items(towers), weights_of(weights), (ItemInputs(item, [brand, colour], price),)
        )
        return (u_BVD * target[:, None]).sum() + (u_BVD[:, 0] * v_ND).sum()

    def weights_of(weights):
        return {f"towers.{name}": weight for name, weight in weights.items()}

    direction = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves]
    gradients = torch.autograd.grad(value(leaves), leaves, allow_unused=True)
    slope = sum(
        float((gradient * way).sum())
        for gradient, way in zip(gradients, direction, strict=True)
        if gradient is not None
    )
    step = 1e-6
    with torch.no_grad():
        ends = [
            float(value([leaf + sign * step * way for leaf, way in zip(leaves, direction, strict=True)]))
            for sign in (1, -1)
        ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)
    unused = {name for name, gradient in zip(names, gradients, strict=False) if gradient is None}
    assert unused == set()


class _Users(torch.nn.Module):
    def __init__(self, towers):
        super().__init__()
        self.towers = towers

    def forward(self, inputs):
        return self.towers.user_vectors(inputs)


class _Items(_Users):
    def forward(self, inputs):
        return self.towers.item_vectors(inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_what_is_saved_is_the_model(kind):
    config = config_of(kind)
    before = torch.get_rng_state()
    first, again, other = (
        build_model(each, *feature_sides(each, FEATURES))
        for each in (config, config, config.model_copy(update={"seed": 4}))
    )
    assert torch.equal(before, torch.get_rng_state())
    weights = dense_weights(first)
    assert all(np.array_equal(weights[name], value) for name, value in dense_weights(again).items())
    users = users_of()
    users, items = _single(users), _single(items_of())
    restore_weights(other, weights)
    assert torch.equal(other.towers.user_vectors(users), first.towers.user_vectors(users))
    assert torch.equal(other.towers.item_vectors(items), first.towers.item_vectors(items))


def _single(inputs):
    if isinstance(inputs, ItemInputs):
        return ItemInputs(
            inputs.item.float(), [each.float() for each in inputs.categories], inputs.numbers.float()
        )
    return replace(
        inputs,
        user=inputs.user.float(),
        history=inputs.history.float(),
        history_size=inputs.history_size.float(),
        categories=[each.float() for each in inputs.categories],
        numbers=inputs.numbers.float(),
        sequence=replace(inputs.sequence, rows=inputs.sequence.rows.float()),
    )


def test_routing_logits_are_saved_and_differ_by_seed():
    weights = [
        dense_weights(build_model(config, *feature_sides(config, FEATURES)))
        for config in (config_of("mind", seed=1), config_of("mind", seed=2))
    ]
    logits = [each["weight.towers.routing_logits"] for each in weights]
    assert logits[0].shape == (4, LENGTH)
    assert not np.array_equal(*logits)


def test_weights_of_another_configuration_are_refused():
    config = config_of("two_tower")
    model = build_model(config, *feature_sides(config, FEATURES))
    weights = dense_weights(model)
    name = "weight.towers.user_tower.around.weight"
    with pytest.raises(ValueError, match=r"around\.weight: expected shape \(8, 16\), got \(4, 4\)"):
        restore_weights(model, {**weights, name: np.zeros((4, 4), np.float32)})
    with pytest.raises(ValueError, match=r"no tensor weight\.towers\.user_tower\.around"):
        restore_weights(model, {other: value for other, value in weights.items() if other != name})


@pytest.mark.parametrize("kind", KINDS)
def test_further_histories_start_at_nothing_and_learn(kind):
    towers = towers_of(kind, trained=False, histories={"views": {"kinds": ["view"]}})
    views = torch.ones(ROWS, WIDTH, dtype=torch.float64)
    with_views = towers.user_vectors(users_of(pooled={"views": views}))
    close(with_views, towers.user_vectors(users_of(pooled={"views": 0 * views})))
    (with_views[:, 0] * torch.arange(WIDTH)).sum().backward()
    learned = towers.history_factors if kind == "fm" else towers.user_tower.around.weight
    assert (learned.grad[..., -WIDTH:] != 0).any()


@pytest.mark.parametrize("kind", ["mind", "sequence"])
def test_a_history_in_order_is_asked_for_or_switched_off(kind):
    without = replace(users_of(), sequence=None)
    with pytest.raises(ValueError, match=r"expected UserInputs.sequence, got None"):
        towers_of(kind).user_vectors(without)
    with pytest.raises(ValueError, match="expected at most 9 history items"):
        towers_of(kind).user_vectors(users_of(sequence_of(length=LENGTH + 1)))
    off = towers_of(kind, use_history=False).user_vectors(without)
    nothing = replace(without, sequence=sequence_of(sizes=(0,) * ROWS))
    close(off, towers_of(kind).user_vectors(nothing))


# Two towers and cross layers


def test_a_tower_by_numpy():
    towers, users, items = towers_of("dssm", cross_layers=1), users_of(), items_of()
    side = np.log1p(users.history_size.numpy()) / np.log1p(LENGTH)
    x = np.concatenate([users.user, users.history, side[:, None], users.categories[0], users.numbers], axis=1)
    close(towers.user_vectors(users)[:, 0], unit(_tower(towers.user_tower, x, 2 * WIDTH)))
    x = np.concatenate([items.item, *items.categories, items.numbers], axis=1)
    close(towers.item_vectors(items), unit(_tower(towers.item_tower, x, WIDTH)))


@pytest.mark.parametrize("kind", ["two_tower", "youtube_dnn", "mind"])
def test_no_work_is_done_for_a_user_row_that_is_off(kind):
    """The weights of its inputs are there, and neither read nor moved."""
    towers, users = (
        towers_of(kind, user_row=False),
        replace(users_of(), user=torch.zeros_like(users_of().user)),
    )
    before = towers.user_vectors(users)
    (before**2).sum().backward()
    with torch.no_grad():
        for weight in (towers.user_tower.layers[0].weight, towers.user_tower.around.weight):
            assert weight.grad[:, WIDTH:].any()
            assert not weight.grad[:, :WIDTH].any()
            weight[:, :WIDTH] = float("nan")
    assert torch.equal(towers.user_vectors(users), before)


def _tower(tower, x, ids):
    w = {name: value.detach().numpy() for name, value in tower.named_parameters()}
    hidden = np.maximum(x @ w["layers.0.weight"].T + w["layers.0.bias"], 0)
    crossed = x * (x @ w["crossed.0.layers.0.weight"].T + w["crossed.0.layers.0.bias"]) + x
    return (
        hidden @ w["layers.2.weight"].T
        + w["layers.2.bias"]
        + x[:, :ids] @ w["around.weight"].T
        + crossed @ w["crossed.1.weight"].T
    )


def test_cross_layers_by_hand():
    # x0 = (1, 2). Layer 1: W x + b = (1.5, 3), x1 = (1 * 1.5 + 1, 2 * 3 + 2) = (2.5, 8).
    # Layer 2, the identity: x2 = (1 * 2.5 + 2.5, 2 * 8 + 8) = (5, 24).
    network = CrossNetwork(2, 2)
    with torch.no_grad():
        for layer, weight, bias in zip(
            network.layers, ([[1.0, 0], [1, 1]], [[1.0, 0], [0, 1]]), ([0.5, 0], [0.0, 0]), strict=True
        ):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        assert network(torch.tensor([[1.0, 2.0]])).tolist() == [[5.0, 24.0]]


def test_youtube_logit_is_the_product_and_the_items_bias():
    towers, users, items = towers_of("youtube_dnn"), users_of(), items_of()
    u_BD, v_ND = towers.user_vectors(users)[:, 0], towers.item_vectors(items)
    close(u_BD @ v_ND.T, u_BD[:, :-1] @ items.item[:, :-1].T + items.item[:, -1])


# FM


def test_fm_ranks_by_all_pairs_with_an_item_field():
    towers, users, items = towers_of("fm"), users_of(), items_of()
    with torch.no_grad():
        scores = (towers.user_vectors(users)[:, 0] @ towers.item_vectors(items).T).numpy()
        user_numbers, item_numbers = towers.user_numbers.numpy(), towers.item_numbers.numpy()
    share = np.log1p(users.history_size.numpy()) / np.log1p(LENGTH)
    for b in range(ROWS):
        numbers = [share[b], *users.numbers[b].numpy()]
        user_fields = [users.user[b].numpy(), users.history[b].numpy(), users.categories[0][b].numpy()]
        user_fields += [x * row for x, row in zip(numbers, user_numbers, strict=True)]
        for n in range(len(items.item)):
            item_fields = [items.item[n].numpy(), *(each[n].numpy() for each in items.categories)]
            item_fields += [x * row for x, row in zip(items.numbers[n].numpy(), item_numbers, strict=True)]
            score = sum(field[-1] for field in item_fields)
            score += sum(u[:-1] @ v[:-1] for u in user_fields for v in item_fields)
            score += sum(v[:-1] @ w[:-1] for v, w in combinations(item_fields, 2))
            assert scores[b, n] == pytest.approx(score, rel=1e-9)


# MIND


def test_routing_by_plain_loops():
    towers = towers_of("mind", routing_iterations=3)
    sequence = sequence_of()
    expected = [
        _routed(towers, sequence.rows[b, LENGTH - n :].numpy(), min(4, max(1, int(math.log2(max(n, 1))))))
        for b, n in enumerate(SIZES)
    ]
    close(towers.capsules(sequence), np.stack(expected))


def _routed(towers, rows, interests):
    matrix = towers.shared.weight.detach().numpy()
    items = [matrix @ row for row in rows]
    logits = towers.routing_logits.numpy()[:, LENGTH - len(items) :].copy()
    capsules = np.zeros((4, WIDTH))
    for _ in range(3):
        for k in range(interests):
            total = np.zeros(WIDTH)
            for place, item in enumerate(items):
                shares = [math.exp(logits[j, place]) for j in range(interests)]
                total += shares[k] / sum(shares) * item
            square = total @ total
            capsules[k] = square / (1 + square) * total / max(math.sqrt(square), 1e-300)
        for k in range(interests):
            for place, item in enumerate(items):
                logits[k, place] += capsules[k] @ item
    return capsules


def test_interests_beyond_the_users_own_repeat_the_first():
    u_BVD = towers_of("mind").user_vectors(users_of())
    distinct = [len({tuple(vector) for vector in user.tolist()}) for user in u_BVD]
    assert distinct == [1, 1, 1, 2, 3, 3]  # floor(log2 n) of 0, 1, 3, 4, 8, 9 items, at least 1
    for user, own in zip(u_BVD, distinct, strict=True):
        assert all(torch.equal(vector, user[0]) for vector in user[own:])


def test_routing_gradient_is_that_of_the_last_round():
    towers = towers_of("mind", routing_iterations=3)
    sequence = sequence_of(sizes=(9, 9))
    target = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = torch.autograd.grad((towers.capsules(sequence) * target).sum(), towers.shared.weight)[0]
    # capsules before the last round, by the model with one round less, give the last coupling
    logits = towers.routing_logits.expand(2, -1, -1)
    items = towers.shared(sequence.rows)
    for rounds in (1, 2):
        fewer = towers_of("mind", routing_iterations=rounds).capsules(sequence).detach()
        logits = logits + fewer @ items.detach().transpose(1, 2)
    open_K1 = (torch.arange(4) < 3)[:, None]
    coupling = logits.masked_fill(~open_K1, -math.inf).softmax(1)
    total = coupling @ items
    square = (total**2).sum(2, keepdim=True)
    capsules = torch.where(open_K1, total * square.clamp_min(1e-30).sqrt() / (1 + square), 0.0)
    close(got, torch.autograd.grad((capsules * target).sum(), towers.shared.weight)[0])


def test_label_aware_attention_by_hand():
    # u.v = .8, .6 at tau .5: scores 1.6, 1.2; squared 2.56, 1.44. The third vector repeats the first.
    u_BVD = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    v_BD = torch.tensor([[0.8, 0.6]])

    def attended(power, v_BD=v_BD):
        config = config_of("mind", interests=3, tau=0.5, label_power=power)
        return MIND(config, SideWidth(0, 0), SideWidth(0, 0)).for_target(u_BVD, v_BD)[0].tolist()

    first = math.exp(2.56) / (math.exp(2.56) + math.exp(1.44))
    length = math.hypot(first, 1 - first)
    assert attended(2.0) == pytest.approx([first / length, (1 - first) / length], rel=1e-5)
    assert attended(0.0) == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-5)
    assert attended(20.0) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert attended(2.0, -v_BD) == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-5)  # far from both
    with pytest.raises(ValueError, match=r"label_power: expected .* got 200.0 with tau 0.5"):
        attended(200.0)


def test_several_vectors_need_a_rule_for_the_target():
    with pytest.raises(ValueError, match="expected one vector per user, got 4"):
        towers_of("two_tower").for_target(torch.zeros(2, 4, WIDTH), torch.zeros(2, WIDTH))


# Sequence


@pytest.mark.parametrize("changed", [0, 4, LENGTH - 1])
def test_a_later_item_never_changes_an_earlier_state(changed):
    towers = towers_of("sequence")
    sequence = sequence_of(sizes=(LENGTH, LENGTH))
    rows = sequence.rows.clone()
    rows[:, changed] += torch.linspace(-1, 1, WIDTH)  # not a constant: a layer norm would take it away
    states = towers.states(sequence, LENGTH)
    others = towers.states(replace(sequence, rows=rows), LENGTH)
    close(others[:, :changed], states[:, :changed])
    assert (others[:, changed:] - states[:, changed:]).abs().amax(2).min() > 1e-6


def test_padding_is_not_seen():
    towers = towers_of("sequence")
    sequence = sequence_of(sizes=(4, 4))
    states = towers.states(sequence, LENGTH)
    assert not states[:, :-4].any()
    noisy = torch.where(sequence.mask[:, :, None], sequence.rows, 100.0)
    ages = torch.where(sequence.mask, sequence.age_s, 1e9)
    close(towers.states(HistorySequence(noisy, sequence.mask, ages), LENGTH), states)
    short = HistorySequence(sequence.rows[:, -4:], sequence.mask[:, -4:], sequence.age_s[:, -4:])
    close(towers.states(short, 4), states[:, -4:])
    close(towers.states(sequence, 1), states[:, -1:])


def test_states_by_plain_loops():
    towers, sequence = towers_of("sequence", blocks=2, heads=2), sequence_of(sizes=(5,))
    w = {name: value.detach().numpy() for name, value in towers.named_parameters()}
    age = [min(int(math.log2(1 + s / 60)), 23) for s in sequence.age_s[0].tolist()]
    x = [sequence.rows[0, p].numpy() + w["place"][p] + w["age"][age[p]] for p in range(4, LENGTH)]
    for block in ("blocks.0.", "blocks.1."):

        def linear(name, vector, block=block):
            return w[f"{block}{name}.weight"] @ vector + w[f"{block}{name}.bias"]

        def norm(name, vector, block=block):
            spread = math.sqrt(vector.var() + SHORTEST**2)
            return (vector - vector.mean()) / spread * w[f"{block}{name}.weight"] + w[f"{block}{name}.bias"]

        normed = [norm("before_attention", vector) for vector in x]
        following = []
        for p, vector in enumerate(x):
            attended = np.zeros(WIDTH)
            for head in (slice(0, 4), slice(4, 8)):
                query = linear("query", normed[p])[head]
                scores = [math.exp(query @ linear("key", normed[q])[head] / 2) for q in range(p + 1)]
                for q, score in enumerate(scores):
                    attended[head] += score / sum(scores) * linear("value", normed[q])[head]
            vector = vector + linear("attended", attended)
            hidden = np.maximum(linear("feed", norm("before_feed", vector)), 0)
            following.append(vector + linear("fed", hidden))
        x = following
    close(towers.states(sequence, LENGTH)[0, -5:], np.stack(x))


def test_the_age_of_an_item_counts():
    towers, sequence = towers_of("sequence"), sequence_of()
    older = replace(sequence, age_s=sequence.age_s + 1e8)
    changed = (towers.user_vectors(users_of(older)) - towers.user_vectors(users_of(sequence))).abs()
    assert changed[0].max() == 0  # no history, no age
    assert changed[1:].amax(2).min() > 1e-6


def test_only_training_steps_drop():
    towers = towers_of("sequence", dropout=0.5)
    users = users_of()
    with torch.no_grad():
        answers = [towers.user_vectors(users) for _ in range(2)]
    assert torch.equal(*answers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        steps = [towers.user_vectors(users)[1:] for _ in range(2)]
    assert not torch.equal(*steps)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="heads: expected a divisor of id_dim 8, got 3"):
        SequenceTower(config_of("sequence", heads=3), SideWidth(0, 0), SideWidth(0, 0))


# Score head


def test_the_head_starts_with_popularity_for_everyone_and_no_own_score():
    head = ScoreHead(5, 2, 8)
    generator = torch.Generator().manual_seed(0)
    assert head.popularity_weights(torch.randn(3, 5, generator=generator)).tolist() == [[0.5, 0.5]] * 3
    features = torch.randn(4, 8, generator=generator)
    assert head.own_scores(features).tolist() == [0.0] * 4
    side = torch.randn(3, 5, generator=generator)
    assert torch.equal(head.own_popularity_weights(side), head.popularity_weights(side))
    assert head.own_similarity.tolist() == [1.0]
    (head.own_scores(features) * torch.arange(4)).sum().backward()
    assert (head.own[-1].weight.grad != 0).any()


def test_a_head_without_its_parts():
    head = ScoreHead(5, 0, 0)
    assert head.popularity_weights(torch.zeros(3, 5)).shape == (3, 0)
    assert head.own_popularity_weights(torch.zeros(3, 5)).shape == (3, 0)
    assert [name for name, _ in head.named_parameters()] == ["offset"]
    with pytest.raises(ValueError, match="set own_items"):
        head.own_scores(torch.zeros(1, 8))


def test_the_head_is_made_by_the_configuration():
    config = config_of("two_tower", popularity=({"half_life_h": 12}, {"half_life_h": 168}), own_items=20)
    model = build_model(config, *feature_sides(config, FEATURES))
    side = _single(users_of()).side(LENGTH)
    assert model.head.popularity_weights(side).shape == (ROWS, 2)
    assert model.head.own_scores(torch.zeros(3, 8)).shape == (3,)
