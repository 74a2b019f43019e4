"""The dense optimizer is torch's own, to the bit, and goes on where its state was saved."""

import numpy as np
import torch
from torch import nn

from models.dense_adam import DenseAdam


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.Linear(3, 2))


def gradients(model, seed, without=()):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.grad = None if name in without else torch.randn(parameter.shape, generator=generator)


def test_steps_are_those_of_torch_to_the_bit():
    ours, theirs = network(), network()
    adam, oracle = DenseAdam(ours, 0.01), torch.optim.Adam(theirs.parameters(), lr=0.01, fused=True)
    for step in range(12):
        without = (
            ("3.bias", "0.weight") if step % 3 == 1 or step < 2 else ()
        )  # not all have one in every step
        gradients(ours, step, without)
        gradients(theirs, step, without)
        lr = 0.01 if step < 6 else 0.002
        adam.set_lr(lr)
        oracle.param_groups[0]["lr"] = lr
        adam.step()
        oracle.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    assert all(
        torch.equal(torch.from_numpy(adam.state()[f"adam.{moment}.{name}"]), oracle.state[parameter][moment])
        for name, parameter in theirs.named_parameters()
        for moment in ("step", "exp_avg", "exp_avg_sq")
    )


def test_a_restored_one_goes_on_alike_and_a_state_is_no_view():
    ours, others = network(), network()
    adam, restored = DenseAdam(ours, 0.01), DenseAdam(others, 0.01)
    for step in range(3):
        gradients(ours, step)
        adam.step()
    state = adam.state()
    others.load_state_dict(ours.state_dict())
    restored.restore(state | {"of.others": np.zeros(3)})
    assert restored.state().keys() == state.keys()
    kept = {name: value.copy() for name, value in state.items()}
    for one, model in ((adam, ours), (restored, others)):
        gradients(model, 9)
        one.step()
        one.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
        one.step()  # nothing to move along
    assert all(
        torch.equal(one, other) for one, other in zip(ours.parameters(), others.parameters(), strict=True)
    )
    assert all((state[name] == kept[name]).all() for name in kept)


def test_nothing_stepped_nothing_kept():
    adam = DenseAdam(network(), 0.01)
    assert adam.state() == {}
    adam.step()
    assert adam.state() == {}
