"""Training and prediction with one process and two, beside one process with two threads.

    python bench/bridges/scaling.py training [--steps 15] [--units 256] [--batch 64]
    python bench/bridges/scaling.py prediction

Training is that of examples/train_ddp.py: DistributedDataParallel on gloo over loopback, batches of made-up lines, the
same whatever the number of processes. Prediction is by a Sequential model of the same size in a pool of processes.
Prints the median time of a step or of a pass over all rows, then for several machines, each with such a batch, the time
that a sum of gradients needs on networks of some speeds, and the share of time that is left to computing, reckoned from
the size of the gradient and the shortest step.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import pickle
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastmask as fm
import fastmask.torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_ddp.py"
NETWORKS = (1, 10, 25)  # Gbit/s
MACHINES = (2, 4, 8)
BUDGETS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
BATCHES = 16  # batches of a prediction
WARM_UP = 2
_model: Any = None


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("train_ddp", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_lines(count: int, median: int) -> list[bytes]:
    """Lines of random letters; lengths are lognormal, as those of sentences are, and 200 at most."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(median), 0.5, count), 1, 200).astype(int)
    return [rng.integers(97, 123, length).astype(np.uint8).tobytes() for length in lengths]


def train(rank: int, folder: str, ranks: int, threads: int, arguments: argparse.Namespace) -> None:
    """Time steps in one of some processes; rank 0 writes milliseconds with and without the sum of gradients."""
    torch.set_num_threads(threads)
    fm.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{ranks}{threads}", rank=rank, world_size=ranks)
    example = load_example()
    torch.manual_seed(0)
    model = DistributedDataParallel(example.ByteModel(units=arguments.units))
    optimizer = torch.optim.Adam(model.parameters())
    lines = example.deal(make_lines(arguments.batch, arguments.median), rank, ranks)
    times: dict[str, list[float]] = {"step": [], "alone": []}
    for step in range(arguments.steps + WARM_UP):
        for kind in times:
            dist.barrier()
            start = time.perf_counter()
            with nullcontext() if kind == "step" else model.no_sync():
                optimizer.zero_grad()
                fastmask.torch.global_token_mean(example.token_losses(model, lines)).backward()
            optimizer.step()
            dist.barrier()
            if step >= WARM_UP:
                times[kind].append(1e3 * (time.perf_counter() - start))
    if rank == 0:
        parameters = sum(weight.numel() for weight in model.parameters())
        torch.save((times, parameters), f"{folder}/{ranks}{threads}.pt")
    dist.destroy_process_group()


def measure_training(ranks: int, threads: int, arguments: argparse.Namespace) -> tuple[float, float, int]:
    """Milliseconds of a step, of one without a sum of gradients, and the number of parameters."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (folder, ranks, threads, arguments), nprocs=ranks)
        times, parameters = torch.load(f"{folder}/{ranks}{threads}.pt")
    return statistics.median(times["step"]), statistics.median(times["alone"]), parameters


def start_worker(pickled: bytes, threads: int) -> None:
    global _model
    fm.set_num_threads(threads)
    _model = pickle.loads(pickled)


def predict(x: np.ndarray) -> np.ndarray:
    return _model.predict(x, verbose=0)


def measure_prediction(processes: int, threads: int, arguments: argparse.Namespace) -> float:
    """Milliseconds of a pass over the rows, in pieces of a batch."""
    fm.utils.set_random_seed(0)
    model = fm.Sequential(
        [fm.Input((None,), dtype="int32"), fm.layers.Embedding(256, 64, mask_zero=True),
         fm.layers.LSTM(arguments.units), fm.layers.Dense(2)]
    )
    lines = make_lines(BATCHES * arguments.batch, arguments.median)
    x = fm.utils.pad_sequences([list(line) for line in lines], 200, padding="post")
    parts = [x[start : start + arguments.batch] for start in range(0, len(x), arguments.batch)]
    context = multiprocessing.get_context("spawn")
    times = []
    with ProcessPoolExecutor(processes, context, start_worker, (pickle.dumps(model), threads)) as pool:
        for _ in range(arguments.steps + WARM_UP):
            start = time.perf_counter()
            list(pool.map(predict, parts))
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


def print_network(step: float, parameters: int) -> None:
    """Print what a sum over machines takes: each sends and receives 2 (n - 1) / n times the gradient, in a ring."""
    size = 4e-6 * parameters
    print(f"\n{parameters:,} parameters, a gradient of {size:.1f} MB; {step:.0f} ms of a step without the sum\n")
    print("| machines | " + " | ".join(f"{speed} Gbit/s" for speed in NETWORKS) + " |")
    print("|---" * (1 + len(NETWORKS)) + "|")
    for machines in MACHINES:
        sums = [2 * (machines - 1) / machines * size * 8 / speed for speed in NETWORKS]
        print(f"| {machines} | " + " | ".join(f"{took:.1f} ms, {step / (step + took):.0%}" for took in sums) + " |")


def report_training(arguments: argparse.Namespace) -> None:
    print("| processes x threads | training step, ms | of it the sum of gradients | speed |\n|---|---|---|---|")
    rows = []
    for processes, threads in BUDGETS:
        step, alone, parameters = measure_training(processes, threads, arguments)
        rows.append((alone, step, parameters))
        summing = max(step - alone, 0)
        print(f"| {processes} x {threads} | {step:.0f} | {summing:.0f} | {rows[0][1] / step:.2f} |", flush=True)
    print_network(min(rows)[0], min(rows)[2])


def report_prediction(arguments: argparse.Namespace) -> None:
    print(f"| processes x threads | prediction of {BATCHES * arguments.batch} lines, ms | speed |\n|---|---|---|")
    times = []
    for processes, threads in BUDGETS:
        times.append(measure_prediction(processes, threads, arguments))
        print(f"| {processes} x {threads} | {times[-1]:.0f} | {times[0] / times[-1]:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("training", "prediction"))
    parser.add_argument("--steps", type=int, default=15, help="steps, or passes over all rows, to time")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64, help="lines of a step, over all processes")
    parser.add_argument("--median", type=int, default=90, help="median length of a line")
    arguments = parser.parse_args()
    print(f"PyTorch {torch.__version__}, fastmask {fm.__version__} ({fm.kernels.instruction_set()}), "
          f"{arguments.units} units, batches of {arguments.batch} lines\n")
    {"training": report_training, "prediction": report_prediction}[arguments.what](arguments)


if __name__ == "__main__":
    main()
