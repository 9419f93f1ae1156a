"""Two processes train the same parameters as one, whatever the ranks' numbers of tokens."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")
ddp_worker = importlib.import_module("ddp_worker")

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ddp.py"


def case(shards, sparse=False, dtype=torch.float64, accelerate=False, wrong=False):
    return {"shards": shards, "sparse": sparse, "dtype": dtype, "accelerate": accelerate, "wrong": wrong}


CASES = {
    "uneven": case("uneven"),
    "float32": case("uneven", dtype=torch.float32),
    "masked": case("masked"),
    "empty": case("empty"),
    "accelerated": case("uneven", accelerate=True),
    "sparse": case("uneven", sparse=True),
    "sparse_empty": case("empty", sparse=True),
}
WRONG = case("uneven", wrong=True)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ddp_worker.run, (str(folder), {**CASES, "wrong": WRONG}), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def largest_difference(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_like_one(ranks, name):
    expected, losses = ddp_worker.train(CASES[name])
    for found in ranks:
        parameters, means = found[name]
        assert largest_difference(parameters, expected) < 1e-6
        assert means == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]
    assert largest_difference(*(found[name][0] for found in ranks)) == 0


def test_means_of_ranks_train_something_else(ranks):
    expected, _ = ddp_worker.train(CASES["uneven"])
    assert largest_difference(ranks[0]["wrong"][0], expected) > 0.01


def test_tokens_are_summed_over_ranks(ranks):
    assert [found["tokens"] for found in ranks] == [(2.5, 0.5)] * 2


def test_a_group_of_others_is_refused(ranks):
    assert "group: expected one that this process belongs to" in ranks[1]["outside"]


def test_alone_it_is_a_mean():
    losses = torch.tensor([[1.0, 2.0], [6.0, float("nan")]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    mean = bridge.global_token_mean(losses, mask)
    mean.backward()
    assert mean.item() == 3.0
    torch.testing.assert_close(losses.grad, mask / 3.0)
    assert bridge.global_token_mean(losses[:1]).item() == 1.5


def test_gradient_of_the_mean():
    losses = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4) < 0.5
    assert torch.autograd.gradcheck(lambda values: bridge.global_token_mean(values, mask), losses)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (2, 3)])
def test_without_tokens_it_is_zero(shape):
    losses = torch.full(shape, float("nan"), requires_grad=True)
    mean = bridge.global_token_mean(losses, torch.zeros(shape, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert torch.equal(losses.grad, torch.zeros(shape))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bridge.global_token_mean([1.0]), TypeError, "losses: expected a tensor"),
        (lambda: bridge.global_token_mean(torch.ones(2).half()), TypeError, "losses: expected torch.float32"),
        (lambda: bridge.global_token_mean(torch.ones(2), 2 * torch.ones(2)), TypeError, "mask: expected a torch.bool"),
        (lambda: bridge.global_token_mean(torch.ones(2), torch.ones(3) > 0), ValueError, "mask: expected shape"),
        (lambda: bridge.tokens_per_rank(1.5), TypeError, "count: expected a whole number of tokens, got float"),
        (lambda: bridge.tokens_per_rank(-1), ValueError, "count: expected a whole number of tokens from 0 on"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_example_trains_the_same_with_torchrun(tmp_path):
    """9 lines of each batch of 9 but 1 in the last one of an epoch, where a rank has none."""
    text = tmp_path / "text"
    text.write_text("\n".join("abcab"[n % 3 :] * (1 + n * 7 % 11) for n in range(20)))
    weights = []
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        saved = tmp_path / f"weights{len(weights)}"
        options = ["--text", text, "--steps", "6", "--batch", "9", "--units", "16", "--save", saved]
        result = subprocess.run(
            [sys.executable, *start, EXAMPLE, *options], capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        assert f"{len(weights) + 1} processes, 1 threads each" in result.stdout
        weights.append(torch.load(saved))
    # Adam divides by the size of a gradient: rounding in float32 counts more than with SGD.
    assert largest_difference(*weights) < 1e-4
