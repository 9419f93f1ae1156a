"""Losses of masked batches under DistributedDataParallel, which averages the gradients of ranks.

Ranks hold different numbers of tokens. A mean over each rank's own tokens, averaged over ranks, counts a token of a
short shard more than one of a long shard. Here a rank's summed loss is divided by the mean number of tokens of a rank,
so that the average over ranks is the mean over all tokens.
"""

from __future__ import annotations

from operator import index
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastmask.torch._checks import check_mask, check_tensor

__all__ = ["global_token_mean", "tokens_per_rank"]


def tokens_per_rank(count: int, group: Any = None) -> float:
    """The mean number of tokens of a rank: what each rank divides its summed loss by.

    Every rank of the group must call it, the ranks without tokens as well. It sums one integer over the ranks. To
    accumulate gradients over several batches, give the number of tokens of all of them, and divide each batch's loss.

    Parameters
    ----------
    count : int
        Number of tokens of this rank, 0 or more.
    group : torch.distributed.ProcessGroup, optional
        The ranks to sum over; by default all of them.

    Returns
    -------
    float
        Tokens of all ranks / number of ranks. 1 / number of ranks where no rank has a token, so that a sum of zero
        stays zero. Without a process group ``count``, or 1 for 0.

    Raises
    ------
    TypeError, ValueError
        Where ``count`` is not a whole number from 0 on, or this process is not in ``group``.
    """
    tokens = _checked(count)
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size(group)
        if ranks < 1:
            raise ValueError("group: expected one that this process belongs to, got another")
        total = torch.tensor(tokens, dtype=torch.int64)
        dist.all_reduce(total, group=group)
        tokens = int(total)
    return max(tokens, 1) / ranks


def global_token_mean(losses: Tensor, mask: Tensor | None = None, group: Any = None) -> Tensor:
    """This rank's part of the mean loss over the tokens of all ranks.

    DistributedDataParallel averages gradients over ranks; of this loss the average is the gradient of the mean over
    all tokens, wherever they are. The value is the sum over this rank's tokens / (tokens of all ranks / number of
    ranks): its average over ranks is the mean loss. Every rank of the group must call it, and then ``backward`` on
    what it returns: a rank without tokens gets 0, and zeros as gradients of all that ``losses`` depends on.

    Parameters
    ----------
    losses : tensor, float32 or float64
        One loss for each token, of any shape, as from ``torch.nn.functional.cross_entropy(..., reduction="none")``.
    mask : bool tensor of the same shape, optional
        Which of them count; the others are not read. By default all count.
    group : torch.distributed.ProcessGroup, optional
        The ranks to sum over; by default all of them. Without a process group it is a mean over this process's tokens.

    Returns
    -------
    tensor of shape ()

    Raises
    ------
    TypeError, ValueError
        Where a tensor has another dtype, device or shape, or this process is not in ``group``.
    """
    check_tensor("losses", losses)
    if mask is not None:
        losses = losses[check_mask(mask, losses.shape)]
    return losses.sum() / tokens_per_rank(losses.numel(), group)


def _checked(count: int) -> int:
    try:
        tokens = -1 if isinstance(count, bool) else index(count)
    except TypeError:
        raise TypeError(f"count: expected a whole number of tokens, got {type(count).__name__}") from None
    if tokens < 0:
        raise ValueError(f"count: expected a whole number of tokens from 0 on, got {count!r}")
    return tokens
