"""PyTorch modules and functions on fastmask's kernels; needs ``pip install 'fastmask[torch]'``.

>>> import fastmask.torch
>>> print(fastmask.torch.accelerate(model))
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastmask.torch needs PyTorch: pip install 'fastmask[torch]'.") from error

from fastmask.torch import functional
from fastmask.torch._rows import PackedRows
from fastmask.torch.acceleration import Report, accelerate, freeze, restore, unfreeze
from fastmask.torch.distributed import global_token_mean, tokens_per_rank
from fastmask.torch.embedding import Embedding
from fastmask.torch.recurrent import GRU, LSTM, RNN

__all__ = [
    "GRU", "LSTM", "RNN", "Embedding", "PackedRows", "Report", "accelerate", "freeze", "functional",
    "global_token_mean", "restore", "tokens_per_rank", "unfreeze",
]
