"""Modules of fastmask.torch with weights that change, and what becomes of their results."""

import copy

import numpy as np
import torch

import fastmask.torch as bridge
from fastmask.torch import _kept

CELLS = ("LSTM", "GRU", "RNN")
STEPS = (1, 2, 5)


def make(cell="LSTM", features=3, units=5, *arguments, seed=0, **keywords):
    torch.manual_seed(seed)
    return getattr(bridge, cell)(features, units, *arguments, batch_first=True, **keywords)


def inputs(steps=5, dtype=torch.float32, features=3):
    return torch.randn(2, steps, features, dtype=dtype, generator=torch.Generator().manual_seed(1))


def initial(module, x):
    """States that are not zero, so that single steps read all weights."""
    runs = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.full((runs, x.shape[0], module.hidden_size), 0.5, dtype=x.dtype)
    return (h, -h) if module.mode == "LSTM" else h


def results(module, x):
    with torch.no_grad():
        output, states = module(x, initial(module, x))
    return [output, *(states if isinstance(states, tuple) else (states,))]


def fresh(module, x):
    """Results of a copy, which has packed nothing."""
    twin = copy.deepcopy(module)
    assert twin not in _kept._kept
    return results(twin, x)


def check_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def differ(found, expected):
    return any(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def by_optimizer(kind, **options):
    def change(module):
        optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.1, **options)
        module(inputs())[0].sum().backward()
        optimizer.step()

    return change


def by_multiplication(module):
    module.weight_hh_l0.data.mul_(1.5)


def by_numpy(module):
    # The last number that is compared.
    module.bias_hh_l0.detach().numpy()[-1] += 1
