"""The distance of float32 runs from float64, ours beside PyTorch's, on the same data.

    python bench/accuracy.py [--steps 100 1000 10000] [--units 32]

needs PyTorch. A distance is the root mean square of the differences from the reference in float64 over the root mean
square of the reference, in units of 1e-8. Ends with status 1 if one of ours is more than a tenth above PyTorch's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]

from helpers.accuracy import OPERATIONS, distance, exact, make_arrays, ours  # noqa: E402

# PyTorch's gates in the order of Keras's: LSTM i, f, c, o; GRU z, r, h where PyTorch has r, z, n.
ORDER = {"SimpleRNN": [0], "LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}
MODULES = {"SimpleRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}


def gates(cell, matrix):
    """Columns [..., gates * units] with the gates in the other library's order; its own inverse."""
    parts = np.split(matrix, OPERATIONS[cell][1], axis=-1)
    return np.concatenate([parts[i] for i in ORDER[cell]], axis=-1)


def pytorch(cell, arrays):
    """Outputs and gradients of PyTorch's module in float32, by name."""
    x, kernel, recurrent_kernel, bias, dy = (array.astype(np.float32) for array in arrays.values())
    module = MODULES[cell](x.shape[2], recurrent_kernel.shape[0], batch_first=True)
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    wanted = (gates(cell, kernel).T, gates(cell, recurrent_kernel).T, *gates(cell, both))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), wanted, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    inputs = torch.from_numpy(x).requires_grad_()
    y, _ = module(inputs)
    y.backward(torch.from_numpy(dy))
    w, u, b, c = (parameter.grad.numpy() for parameter in module.parameters())
    bias_gradient = gates(cell, np.stack([b, c])) if bias.ndim == 2 else gates(cell, b)
    found = (y.detach().numpy(), inputs.grad.numpy(), gates(cell, w.T), gates(cell, u.T), bias_gradient)
    return dict(zip(("y", "inputs", "kernel", "recurrent_kernel", "bias"), found, strict=True))


def compare(cell, steps, units, seeds):
    """For each result our distance and PyTorch's, each the mean over some random problems."""
    rows = []
    for seed in range(seeds):
        arrays = make_arrays(cell, steps, units=units, seed=seed)
        expected, mine, theirs = exact(cell, arrays), ours(cell, arrays), pytorch(cell, arrays)
        rows.append({name: (distance(mine[name], e), distance(theirs[name], e)) for name, e in expected.items()})
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print("| layer | steps | result | fastmask | PyTorch |\n|---|---|---|---|---|")
    worse = []
    for cell in OPERATIONS:
        for steps in args.steps:
            for name, (mine, theirs) in compare(cell, steps, args.units, args.seeds).items():
                print(f"| {cell} | {steps} | {name} | {mine * 1e8:.1f} | {theirs * 1e8:.1f} |", flush=True)
                if mine > 1.1 * theirs:
                    worse.append(f"{cell}, {steps} steps, {name}: {mine / theirs:.2f} times PyTorch's")
    print("\n".join(worse) or "None of ours is more than a tenth above PyTorch's.")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
