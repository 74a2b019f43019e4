"""Every network against its formula written out, one sample at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.ranking.factorization import DeepFM, Logistic, Perceptron, second_order
from models.ranking.first_order import FirstOrder
from models.ranking.inputs import RankInputs
from models.ranking.mixture import Mixture
from models.ranking.networks import build_network
from models.ranking.pepnet import GateNU, PEPNet
from tests.models.ranking.ranking_data import KINDS, LAYOUT, config, inputs


def shaken(network):
    """Weights that start at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return network.eval()


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_second_order_is_the_sum_over_all_pairs():
    rows = inputs().rows.double()
    pairs = sum(rows[:, a] * rows[:, b] for a in range(5) for b in range(a))
    torch.testing.assert_close(second_order(rows), pairs)


def test_logistic_is_first_order_only():
    network, given = shaken(Logistic(config("logistic"), LAYOUT)), inputs()
    w, b = network.numbers.weight.detach(), network.numbers.bias.detach()
    torch.testing.assert_close(network(given), given.linear + given.numbers @ w.T + b)


def test_deepfm_is_first_order_pairs_and_deep_part():
    layout = replace(LAYOUT, heads=1)
    network, given = DeepFM(config("deepfm"), layout), inputs(layout=layout)
    assert not network.pairs.requires_grad  # one head: the paper's plain sum over dimensions
    shaken(network.deep), shaken(network.numbers)
    pairs = torch.stack(
        [(given.rows[:, a] * given.rows[:, b]).sum(1) for a in range(5) for b in range(a)]
    ).sum(0)
    deep = Perceptron(config("deepfm"), layout)
    deep.load_state_dict(network.deep.state_dict())
    expected = network.numbers(given.numbers) + pairs[:, None] + deep.eval()(given)
    torch.testing.assert_close(network.eval()(given), expected)


def test_perceptron_and_its_first_order_terms():
    network, given = shaken(Perceptron(config("weighted_lr"), LAYOUT)), inputs()
    state, h = network.state_dict(), given.flat()
    for layer in (0, 2):
        h = (h @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]).relu()
    expected = given.linear + h @ state["last.weight"].T + state["last.bias"]
    torch.testing.assert_close(network(given).detach(), expected)


def test_heads_of_deepfm_weigh_the_pairs_for_themselves():
    network = shaken(DeepFM(config("deepfm"), LAYOUT))
    before = network(inputs())
    with torch.no_grad():
        network.pairs[:, 1] = 0
    after = network(inputs())
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("sharing", ["mmoe", "omoe", "shared_bottom", "soft_sharing"])
def test_mixture_against_a_loop(sharing):
    made = config("mmoe", sharing=sharing)
    network, given = shaken(Mixture(made, LAYOUT)), inputs()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    n = {"shared_bottom": 1}.get(sharing, 3)
    expected = np.empty((7, 3), np.float32)
    for row, x in enumerate(given.flat().numpy()):
        experts = []
        for e in range(n):
            h = x
            for layer in range(2):
                weight, bias = state[f"experts.{layer}.weight"], state[f"experts.{layer}.bias"]
                h = relu(h @ weight[e] + bias[e, 0])
            experts.append(h)
        for head in range(3):
            if sharing == "mmoe":
                gate = softmax(state["gates.weight"][head * n : (head + 1) * n] @ x)
            elif sharing == "omoe":
                gate = softmax(state["gates.weight"] @ x)
            elif sharing == "shared_bottom":
                gate = np.ones(1)
            else:
                gate = np.eye(3)[head]
            h = sum(g * e for g, e in zip(gate, experts, strict=True))
            h = relu(h @ state["towers.0.weight"][head] + state["towers.0.bias"][head, 0])
            expected[row, head] = (h @ state["last.weight"][head] + state["last.bias"][head, 0])[0]
    expected += given.linear.numpy()  # wide: first order terms beside it
    np.testing.assert_allclose(network(given).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_soft_sharing_pulls_the_networks_together():
    network = shaken(Mixture(config("mmoe", sharing="soft_sharing", soft_sharing=0.5), LAYOUT))
    expected = sum(
        0.5 * np.square(w - w.mean(0)).sum()
        for w in (network.state_dict()[f"experts.{layer}.weight"].numpy() for layer in range(2))
    )
    np.testing.assert_allclose(network.penalty().item(), expected, rtol=1e-5)
    assert shaken(Mixture(config("mmoe"), LAYOUT)).penalty().item() == 0


def test_a_gate_by_hand():
    gate = GateNU(2, 2, 1, gamma=2.0)
    with torch.no_grad():
        gate.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        gate.first.bias.copy_(torch.tensor([0.5, 0.0]))
        gate.second.weight.copy_(torch.tensor([[1.0, 7.0]]))
        gate.second.bias.copy_(torch.tensor([-1.0]))
    # x = (1, 3): hidden = (ReLU 1.5, ReLU -3) = (1.5, 0); delta = 2 * sigmoid(1.5 - 1)
    np.testing.assert_allclose(gate(torch.tensor([[1.0, 3.0]])).item(), 2 / (1 + np.exp(-0.5)), rtol=1e-6)


def test_with_gamma_two_pepnet_starts_without_effect_of_its_gates():
    network = PEPNet(config(), LAYOUT).eval()
    plain = PEPNet(config(epnet=False, ppnet=False), LAYOUT).eval()
    plain.layers.load_state_dict(network.layers.state_dict())
    torch.testing.assert_close(network(inputs()), plain(inputs()))
    assert network.epnet is not None
    assert plain.epnet is None
    assert plain.ppnet is None


@pytest.mark.parametrize("gate_input", ["epnet_output", "epnet_gate"])
def test_pepnet_against_a_loop(gate_input):
    made = config(gamma=3.0, ppnet_gate=gate_input)
    network, given = shaken(PEPNet(made, LAYOUT)), inputs()
    state = {name: value.numpy() for name, value in network.state_dict().items()}

    def gate(name, x):
        hidden = relu(state[f"{name}.first.weight"] @ x + state[f"{name}.first.bias"])
        return 3.0 * sigmoid(state[f"{name}.second.weight"] @ hidden + state[f"{name}.second.bias"])

    expected = np.empty((7, 3), np.float32)
    for row in range(7):
        rows, numbers = given.rows[row].numpy(), given.numbers[row].numpy()
        e = np.concatenate([rows.ravel(), numbers])
        domain = np.concatenate([rows[1], rows[4], numbers[[0, 2]], e])
        delta = gate("epnet", domain)
        scaled = delta * e
        prior = np.concatenate([rows[0], rows[2], rows[3], scaled if gate_input == "epnet_output" else delta])
        for head in range(3):
            h = scaled
            for layer in range(3):
                width = len(h)
                o = gate(f"ppnet.{layer}", prior)[head * width : (head + 1) * width] * h
                h = o @ state[f"layers.{layer}.weight"][head] + state[f"layers.{layer}.bias"][head, 0]
                h = relu(h) if layer < 2 else h
            expected[row, head] = h[0]
    expected += given.linear.numpy()
    np.testing.assert_allclose(network(given).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stopped", [True, False])
def test_gradients_stop_at_the_gates_view_of_the_embeddings(stopped):
    """Field 0 is the user: of no domain, so EPNet's gate sees it only through sg(E)."""
    network = shaken(PEPNet(config(ppnet=False, stop_gradient=stopped), LAYOUT))
    given = inputs()
    rows = given.rows.clone().requires_grad_()
    _, delta = network.personalised(replace(given, rows=rows))
    delta.sum().backward()
    moved = rows.grad.abs().sum((0, 2)) > 0
    assert moved.tolist() == ([False, True, False, False, True] if stopped else [True] * 5)


@pytest.mark.parametrize("stopped", [True, False])
def test_gradients_stop_at_ppnets_view_of_epnets_output(stopped):
    """With layers whose weights are zero the first gate alone could carry a gradient, times zero; with an
    input of zeros in E' itself, only the gates' view of it is left.
    """
    network = shaken(PEPNet(config(epnet=False, stop_gradient=stopped), LAYOUT))
    given = inputs()
    rows = given.rows.clone().requires_grad_()
    priors = [network.layout.user, network.layout.item, network.layout.author]
    seen = network._seen(rows.flatten(1))
    gate_inputs = torch.cat([rows[:, priors].flatten(1), seen, network._seen(given.numbers)], dim=1)
    network.ppnet[0](gate_inputs).sum().backward()
    moved = rows.grad.abs().sum((0, 2)) > 0
    assert moved.tolist() == ([True, False, True, True, False] if stopped else [True] * 5)
    # The same through forward(): without the layers' way, other fields than the priors stay where they are.
    rows = given.rows.clone().requires_grad_()
    detached = replace(given, rows=rows)
    network.personalised = lambda _: (detached.flat().detach().requires_grad_(not stopped), None)
    network(detached).sum().backward()
    moved = rows.grad.abs().sum((0, 2)) > 0
    assert moved.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_output_biases_are_added_last(kind, share):
    made = config(kind, linear_share=0.0 if kind == "logistic" else share)
    layout = replace(LAYOUT, heads=made.heads)
    network = build_network(made, layout).eval()
    before = network(inputs(layout=layout))
    with torch.no_grad():
        for bias in network.output_biases():
            bias.add_(torch.arange(made.heads) + 1.0)
    expected = before + torch.arange(made.heads) + 1.0
    torch.testing.assert_close(network(inputs(layout=layout)), expected)


@pytest.mark.parametrize(
    ("kind", "wide"), [("deepfm", True), ("mmoe", True), ("mmoe", False), ("pepnet", False)]
)
def test_a_logistic_regression_may_stand_beside(kind, wide):
    """The mean of two models' logits; first order terms reach a network only where it has them alone, too."""
    network, given = shaken(build_network(config(kind, linear_share=0.25, wide=wide), LAYOUT)), inputs()
    first, deep = network.members(given)
    torch.testing.assert_close(network(given), 0.25 * first + 0.75 * deep)
    assert type(network.network) is type(build_network(config(kind, linear_share=0.0), LAYOUT))
    torch.testing.assert_close(first, network.linear(given))
    read = given if wide else replace(given, linear=torch.zeros_like(given.linear))
    torch.testing.assert_close(deep, network.network(read))
    assert len(build_network(config(kind, linear_share=0.0), LAYOUT).members(given)) == 1


def test_networks_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b = (build_network(config(), LAYOUT).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_first_order_terms_are_adagrad_per_weight():
    first = FirstOrder(2, lr=0.1)
    first.reserve(6)
    dense = torch.zeros(6, 2, requires_grad=True)
    adagrad = torch.optim.Adagrad([dense], lr=0.1, eps=1e-8)
    for step in range(4):
        rows = torch.tensor([[1, 2], [2, 5], [1, 1]]) if step % 2 else torch.tensor([[0, 2]])
        factors = torch.rand(rows.shape, generator=torch.Generator().manual_seed(step))
        target = torch.arange(2 * len(rows)).view(-1, 2) - 1.5
        sums = first.trained(rows, factors)
        ((sums - target) ** 2).sum().backward()
        first.step()
        adagrad.zero_grad()
        oracle = (dense[rows] * factors[:, :, None]).sum(1)
        torch.testing.assert_close(oracle, sums)
        ((oracle - target) ** 2).sum().backward()
        adagrad.step()
        torch.testing.assert_close(first.weights, dense.detach())
    with pytest.raises(RuntimeError, match="backward"):
        first.step()


def test_a_model_without_rows_reads_no_rows():
    given = inputs()
    assert RankInputs(given.rows[:, :, :0], given.linear, given.numbers).flat().shape == (7, 3)
