"""What each process of test_torch_distributed does: ten steps of training on its part of batches with random masks."""

import faulthandler
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastmask.torch as bridge

STEPS, ROWS, LONGEST, WORDS, TAGS = 10, 6, 9, 12, 4


class Tagger(torch.nn.Module):
    def __init__(self, sparse, layers):
        super().__init__()
        self.embedding = bridge.Embedding(WORDS, 5, sparse=sparse)
        self.lstm = layers.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.gru = layers.GRU(12, 5, batch_first=True)
        self.dense = torch.nn.Linear(5, TAGS)

    def forward(self, x, mask):
        output, _ = self.lstm(self.embedding(x, mask=mask))
        output, _ = self.gru(output, mask=mask)
        return self.dense(output[mask])


def make_batch(step, shards):
    """Words, tags and a random mask: many tokens in the first half of the rows, few or none in the second."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(WORDS, (ROWS, LONGEST), generator=generator)
    y = torch.randint(TAGS, (ROWS, LONGEST), generator=generator)
    y[: ROWS // 2] = 0
    dense = torch.rand(ROWS, LONGEST, generator=generator)
    mask = dense < torch.tensor([0.9] * (ROWS // 2) + [0.2] * (ROWS // 2))[:, None]
    if shards == "masked" and step % 2:
        mask[ROWS // 2 :] = False
    return x, y, mask


def part(batch, shards, step, rank, ranks):
    """A rank's rows; with empty shards the second rank has none in every other step."""
    if ranks == 1:
        return batch
    cut = ROWS if shards == "empty" and step % 2 else ROWS // 2
    rows = slice(0, cut) if rank == 0 else slice(cut, ROWS)
    return tuple(tensor[rows] for tensor in batch)


def own_mean(losses):
    """The usual mean over the tokens of a rank, which is wrong here."""
    return losses.sum() / max(len(losses), 1)


def train(case, rank=0, ranks=1):
    """Return the parameters and the mean loss of every step."""
    torch.manual_seed(3)
    model = Tagger(case["sparse"], torch.nn if case["accelerate"] else bridge).to(case["dtype"])
    if case["accelerate"]:
        bridge.accelerate(model)
    # The group of a DistributedDataParallel is never freed; the default one has to be, or Python may abort at its end.
    parallel = DistributedDataParallel(model, process_group=dist.new_group()) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.0 if case["sparse"] else 0.9)
    normalise = own_mean if case["wrong"] else bridge.global_token_mean
    means = []
    for step in range(STEPS):
        x, y, mask = part(make_batch(step, case["shards"]), case["shards"], step, rank, ranks)
        losses = torch.nn.functional.cross_entropy(parallel(x, mask), y[mask], reduction="none")
        loss = normalise(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / ranks
        if ranks > 1:
            dist.all_reduce(mean)
        means.append(mean.item())
    return model.state_dict(), means


def run(rank, folder, cases):
    """Run all cases in one of two processes; both write their results into the folder."""
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(minutes=10)
    )
    results = {name: train(case, rank, 2) for name, case in cases.items()}
    results["tokens"] = (bridge.tokens_per_rank(5 * rank), bridge.tokens_per_rank(0))
    outside = dist.new_group([0])
    results["outside"] = ""
    if rank:
        try:
            bridge.tokens_per_rank(1, outside)
        except ValueError as error:
            results["outside"] = str(error)
    torch.save(results, f"{folder}/rank{rank}.pt")
    # Nobody hangs up while the other still talks.
    dist.barrier()
    dist.destroy_process_group()
