"""``python -m fastmask``: the demo, and ``python -m fastmask info``."""

import argparse
import platform
import sys
from collections.abc import Sequence

import numpy as np

import fastmask
from fastmask import demo, kernels, threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        threads.set_num_threads(options.threads)
    if options.command == "info":
        print(info())
        return 0
    try:
        demo.run(options.epochs, options.characters, options.units, options.seed)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def info() -> str:
    """Return what the speed depends on, a line each."""
    lines = {
        "fastmask": fastmask.__version__,
        "instruction set": kernels.instruction_set(),
        "usable here": ", ".join(kernels.available()),
        "threads": str(threads.get_num_threads()),
        "FMA peak, one core": f"{kernels.peak_gflops():.0f} GFLOP/s float32, "
        f"{kernels.peak_gflops(np.float64):.0f} GFLOP/s float64, {kernels.peak_gflops(np.int8):.0f} GOP/s int8",
        "NumPy": np.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in lines.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastmask",
        description="Train a tagger of Python source text on the standard library (the demo), "
        "or tell about this machine (info).",
    )
    parser.add_argument("command", nargs="?", choices=("demo", "info"), default="demo")
    parser.add_argument("--epochs", type=_positive, default=3, help="default %(default)s")
    parser.add_argument("--characters", type=_positive, default=600_000, help="to train on; default %(default)s")
    parser.add_argument("--units", type=_positive, default=64, help="of the LSTM, each way; default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--threads", type=_positive, help="default: as many as this process may use")
    parser.add_argument("--version", action="version", version=fastmask.__version__)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
