"""The error of exp, tanh and sigmoid over all 2^32 float32 numbers, for each instruction set of this machine.

    python tools/exhaustive.py [--functions exp tanh sigmoid] [--first-bits 0] [--last-bits 4294967296]

The reference is NumPy in float64. One unit in the last place (ulp) is the distance of float32 numbers at the exact
value. NaN, infinities and zeros must be where the exact function has them. Ends with status 1 if a limit is exceeded.
Takes about 20 minutes of one core.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from fastmask import kernels, ops

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]

from helpers.numeric import ulp_error  # noqa: E402

CHUNK = 2**20
LIMITS = {"exp": 2.0, "tanh": 4.0, "sigmoid": 4.0}
NAMES = {"exp": "exponential"}


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow and with full relative accuracy on both sides."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


EXACT = {"exp": np.exp, "tanh": np.tanh, "sigmoid": sigmoid}


class Worst:
    """The largest error so far and where it is."""

    def __init__(self):
        self.error = 0.0
        self.x = np.float32(0)

    def update(self, x, error):
        """Take in the errors of a chunk."""
        place = int(np.argmax(error))
        if error[place] > self.error:
            self.error, self.x = float(error[place]), x[place]


def sweep(name, first, last):
    """The worst error for each instruction set over the numbers whose bits are from first to last."""
    worst = {isa: Worst() for isa in kernels.available()}
    for start in range(first, last, CHUNK):
        x = np.arange(start, min(start + CHUNK, last), dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            exact = EXACT[name](x.astype(np.float64))
            for isa, record in worst.items():
                with kernels.use(isa):
                    record.update(x, ulp_error(ops.activation(x, NAMES.get(name, name)), exact))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--functions", nargs="+", choices=EXACT, default=list(EXACT))
    parser.add_argument("--first-bits", type=int, default=0)
    parser.add_argument("--last-bits", type=int, default=2**32)
    args = parser.parse_args()
    passed = True
    for name in args.functions:
        begin = time.perf_counter()
        for isa, record in sweep(name, args.first_bits, args.last_bits).items():
            passed &= record.error <= LIMITS[name]
            bits = int(record.x.view(np.uint32))
            print(f"{name:8} {isa:10} worst {record.error:.3f} ulp at {record.x!r} (bits 0x{bits:08x})", flush=True)
        print(f"{name:8} {args.last_bits - args.first_bits} numbers, {time.perf_counter() - begin:.0f} s", flush=True)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
