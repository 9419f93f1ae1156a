"""An existing PyTorch classifier of sentences, before and after fastmask.torch.accelerate.

    python bench/bridges/torch_classifier.py [--threads 1] [--steps 30] [--target 0.7]

The model: torch.nn.Embedding, a PackedSequence, a bidirectional torch.nn.LSTM, a Dense layer on its last states. The
text: the sentences of rt-polarity in ../shared/data beside this repository, or generated ones. Prints a table with
the median time of a training step (forward, backward, Adam), of a forward pass without gradients, the time of
training to a validation accuracy, and the largest difference of the scores between the two with equal parameters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

import fastmask as fm
import fastmask.torch

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "rt-polarity"
Rows = list[tuple[torch.Tensor, float]]


class Classifier(torch.nn.Module):
    """Ids of sentences, in a list, to one score each."""

    def __init__(self, words: int, features: int = 128, units: int = 128) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, features)
        self.lstm = torch.nn.LSTM(features, units, bidirectional=True)
        self.dense = torch.nn.Linear(2 * units, 1)

    def forward(self, sentences: list[torch.Tensor]) -> torch.Tensor:
        ids = pack_sequence(sentences, enforce_sorted=False)
        _, (h, _) = self.lstm(ids._replace(data=self.embedding(ids.data)))
        return self.dense(torch.cat([h[0], h[1]], 1))[:, 0]


def read_sentences() -> tuple[str, list[list[str]], list[float]]:
    """Name of the text, its sentences and their labels."""
    if FOLDER.exists():
        lines = {label: (FOLDER / f"rt-polarity.{name}").read_text("latin-1").split("\n")
                 for label, name in ((1.0, "pos"), (0.0, "neg"))}
        rows = [(line.split(), label) for label, texts in lines.items() for line in texts if line.strip()]
        return "rt-polarity", [words for words, _ in rows], [label for _, label in rows]
    rng = np.random.default_rng(0)
    sentences, labels = [], []
    for n in range(10_000):
        length = int(np.clip(rng.lognormal(2.9, 0.5), 1, 60))
        words = rng.zipf(1.3, length) % 9000
        words[rng.integers(length)] = 9000 + n % 2  # the word that decides
        sentences.append([str(word) for word in words])
        labels.append(float(n % 2))
    return "generated sentences", sentences, labels


def make_data(seed: int) -> tuple[str, int, Rows, Rows]:
    """Name of the text, number of ids, rows to train on and rows to validate on. Id 0 is a word seen once."""
    name, sentences, labels = read_sentences()
    counts = Counter(word for words in sentences for word in words)
    ids = {word: n for n, word in enumerate((w for w, c in counts.items() if c > 1), 1)}
    rows = [(torch.tensor([ids.get(word, 0) for word in words]), label)
            for words, label in zip(sentences, labels, strict=True)]
    order = np.random.default_rng(seed).permutation(len(rows))
    rows = [rows[n] for n in order]
    held = len(rows) // 10
    return name, len(ids) + 1, rows[held:], rows[:held]


def batches(rows: Rows, size: int, epoch: int) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    order = np.random.default_rng(epoch).permutation(len(rows))
    for start in range(0, len(rows) - size + 1, size):
        chosen = [rows[n] for n in order[start : start + size]]
        yield [ids for ids, _ in chosen], torch.tensor([label for _, label in chosen])


class Run:
    """One model in training."""

    def __init__(self, words: int, seed: int, accelerated: bool) -> None:
        torch.manual_seed(seed)
        self.model = Classifier(words)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)
        self.report = fastmask.torch.accelerate(self.model) if accelerated else None

    def step(self, sentences: list[torch.Tensor], labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(self.model(sentences), labels).backward()
        self.optimizer.step()

    def scores(self, rows: Rows) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([self.model([ids for ids, _ in rows[n : n + 256]]) for n in range(0, len(rows), 256)])

    def accuracy(self, rows: Rows) -> float:
        right = (self.scores(rows) > 0) == torch.tensor([label > 0.5 for _, label in rows])
        return right.float().mean().item()


def seconds(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def time_to_accuracy(
    run: Run, rows: Rows, held: Rows, size: int, target: float, epochs: int
) -> tuple[float, int, float]:
    """Seconds of training steps, their number, and the accuracy when it was first at the target, looked at every 20."""
    spent, steps, accuracy = 0.0, 0, 0.0
    for epoch in range(epochs):
        for sentences, labels in batches(rows, size, epoch):
            spent += seconds(run.step, sentences, labels)
            steps += 1
            if steps % 20 == 0:
                accuracy = run.accuracy(held)
                if accuracy >= target:
                    return spent, steps, accuracy
    return spent, steps, accuracy


def measure_steps(runs: list[Run], rows: Rows, size: int, steps: int) -> list[tuple[float, float]]:
    """Median milliseconds of a training step and of a forward pass, the runs in turn on the same batches."""
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in runs]
    for n, (sentences, labels) in zip(range(steps + 3), batches(rows, size, 0), strict=False):
        for run, (training, forward) in zip(runs, times, strict=True):
            took = seconds(run.step, sentences, labels)
            with torch.inference_mode():
                plain = seconds(run.model, sentences)
            if n >= 3:
                training.append(1e3 * took)
                forward.append(1e3 * plain)
    return [(statistics.median(training), statistics.median(forward)) for training, forward in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--target", type=float, default=0.7, help="validation accuracy to train to; 0: do not train")
    parser.add_argument("--epochs", type=int, default=4, help="most epochs to train")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fm.set_num_threads(arguments.threads)
    name, words, rows, held = make_data(arguments.seed)
    print(f"PyTorch {torch.__version__}, fastmask {fm.__version__} ({fm.kernels.instruction_set()}), "
          f"{arguments.threads} threads, {name}: {len(rows)} sentences, {words} words, batches of {arguments.batch}")
    before, after = (Run(words, arguments.seed, accelerated) for accelerated in (False, True))
    difference = (before.scores(held) - after.scores(held)).abs().max().item()
    times = measure_steps([before, after], rows, arguments.batch, arguments.steps)
    print(after.report)
    print(f"\nlargest difference of a score: {difference:.1e}\n")
    print("| | torch.nn | accelerated | ratio |\n|---|---|---|---|")
    for what, a, b in zip(("training step, ms", "forward pass, ms"), *times, strict=True):
        print(f"| {what} | {a:.1f} | {b:.1f} | {a / b:.1f} |")
    if arguments.target:
        found = [
            time_to_accuracy(Run(words, arguments.seed, accelerated), rows, held, arguments.batch, arguments.target,
                             arguments.epochs)
            for accelerated in (False, True)
        ]
        (a, steps_a, accuracy_a), (b, steps_b, accuracy_b) = found
        print(f"| training to {arguments.target:.0%} validation accuracy, s | {a:.1f} | {b:.1f} | {a / b:.1f} |")
        print(f"\nreached {accuracy_a:.1%} after {steps_a} steps, {accuracy_b:.1%} after {steps_b}")


if __name__ == "__main__":
    main()
