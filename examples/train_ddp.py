r"""Train a language model of bytes on the lines of a text file, in one process or several, on one machine or several.

    torchrun --standalone --nproc_per_node 2 examples/train_ddp.py --text FILE [--steps 200] [--save weights.pt]

Each batch of lines is dealt out to the ranks by length, the same batches whatever their number, and the loss is the
mean over the tokens of all ranks: so one process and several train the same weights, up to rounding. A rank that gets
no line of the last, small batch takes part with an empty one. OMP_NUM_THREADS is the number of threads of a process;
torchrun sets it to 1 for two processes or more, unless it is set. ``python examples/train_ddp.py`` runs one process.

On two machines, on each:

    torchrun --nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint FIRST_HOST:29500 \
        examples/train_ddp.py --text FILE
"""

import argparse
import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastmask as fm
import fastmask.torch

NEWLINE = 10


class ByteModel(torch.nn.Module):
    """Bytes (B, T), and how many of each row count, to scores (N, 256) of the byte after each that counts."""

    def __init__(self, features=64, units=256):
        super().__init__()
        self.embedding = fastmask.torch.Embedding(256, features)
        self.lstm = fastmask.torch.LSTM(features, units, batch_first=True)
        self.dense = torch.nn.Linear(units, 256)

    def forward(self, x, mask):
        output, _ = self.lstm(self.embedding(x, mask=mask))
        return self.dense(output[mask])


def read_lines(path, longest):
    """Return the lines of a file that are not empty, as bytes, cut to the longest length."""
    return [line[:longest] for line in Path(path).read_bytes().splitlines() if line.strip()]


def pad(lines):
    """Return inputs, targets and the mask (B, T); a line begins after a newline and ends with one. B may be 0."""
    lengths = torch.tensor([len(line) + 1 for line in lines], dtype=torch.long)
    steps = int(lengths.max()) if lines else 0
    x, y = torch.zeros(2, len(lines), steps, dtype=torch.long)
    for row, line in enumerate(lines):
        whole = torch.tensor([NEWLINE, *line, NEWLINE])
        x[row, : len(line) + 1], y[row, : len(line) + 1] = whole[:-1], whole[1:]
    return x, y, torch.arange(steps) < lengths[:, None]


def deal(lines, rank, ranks):
    """Return this rank's lines of a batch; neighbours in length go to different ranks."""
    return sorted(lines, key=len)[rank::ranks]


def batches(lines, size, steps):
    """Yield batches of lines in a random order, the same in every process; each epoch has another."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(lines), generator=generator).tolist()
        for start in range(0, len(lines), size):
            if steps == 0:
                return
            steps -= 1
            yield [lines[n] for n in order[start : start + size]]


def token_losses(model, lines):
    """Return the loss of every token of some lines (N,)."""
    x, y, mask = pad(lines)
    return torch.nn.functional.cross_entropy(model(x, mask), y[mask], reduction="none")


def total(*numbers):
    """Return sums over all ranks."""
    sums = torch.tensor(numbers, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def evaluate(model, lines, rank, ranks, size):
    """Return the mean loss per token of held-out lines, of which each rank takes its part."""
    own, loss, tokens = deal(lines, rank, ranks), 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(own), size):
            losses = token_losses(model, own[start : start + size])
            loss, tokens = loss + losses.sum().item(), tokens + len(losses)
    loss, tokens = total(loss, tokens)
    return loss / tokens


def train(model, lines, options, rank, ranks):
    """Train for some steps; rank 0 prints the loss per token and the tokens of all ranks per second."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
    start, loss_sum, token_sum = time.perf_counter(), 0.0, 0
    for step, batch in enumerate(batches(lines, options.batch, options.steps), 1):
        losses = token_losses(model, deal(batch, rank, ranks))
        optimizer.zero_grad()
        fastmask.torch.global_token_mean(losses).backward()
        optimizer.step()
        loss_sum, token_sum = loss_sum + losses.detach().sum().item(), token_sum + len(losses)
        if step % options.every == 0 or step == options.steps:
            loss, tokens = total(loss_sum, token_sum)
            seconds = time.perf_counter() - start
            if rank == 0:
                print(f"step {step}: loss {loss / tokens:.4f}, {tokens / seconds:,.0f} tokens/s")
            start, loss_sum, token_sum = time.perf_counter(), 0.0, 0


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="a file of text, of which each line is a sequence")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps from one printed line to the next")
    parser.add_argument("--batch", type=int, default=64, help="lines of a step, over all ranks")
    parser.add_argument("--longest", type=int, default=200, help="bytes of a line to keep")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of Adam")
    parser.add_argument("--save", help="file to write the weights to")
    options = parser.parse_args(arguments)
    if min(options.steps, options.every, options.batch, options.longest, options.units) < 1:
        parser.error("--steps, --every, --batch, --longest and --units must be 1 or more")
    return options


def run(options):
    """Train and evaluate in this process, one of several if torchrun has started it; return the last loss."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    lines = read_lines(options.text, options.longest)
    held = len(lines) // 20
    if held < 1:
        raise SystemExit(f"{options.text}: expected 20 lines or more that are not empty, got {len(lines)}")
    torch.manual_seed(0)
    model = ByteModel(units=options.units)
    # PyTorch 2 never frees the group that a DistributedDataParallel used. Were it the default one, a thread of it could
    # still hold the last sum when Python ends, which aborts the process.
    parallel = DistributedDataParallel(model, process_group=dist.new_group()) if dist.is_initialized() else model
    if rank == 0:
        print(f"{len(lines) - held} lines, {ranks} processes, {fm.get_num_threads()} threads each")
    train(parallel, lines[held:], options, rank, ranks)
    loss = evaluate(model, lines[:held], rank, ranks, options.batch)
    if rank == 0:
        print(f"held-out lines: {loss / math.log(2):.3f} bits per byte")
        if options.save:
            torch.save(model.state_dict(), options.save)
    return loss


def main(arguments=None):
    """Join the other processes, if any, train, and return the loss of held-out lines."""
    options = parse(arguments)
    if "RANK" not in os.environ:
        return run(options)
    dist.init_process_group("gloo")
    try:
        return run(options)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
