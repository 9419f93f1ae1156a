"""The tagger's forward and backward once more in plain NumPy, and what both cost."""

import timeit
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import losses, ops, reference, utils
from fastmask.models import Sequential
from fastmask.threads import get_num_threads

Array = NDArray[Any]
Step = Callable[[], tuple[float, list[Array]]]


def compare(model: Sequential, x: Sequence[Array], y: Sequence[Array]) -> str:
    """Return a table of what one batch costs the model and the NumPy reference.

    Parameters
    ----------
    model : Sequential
        An `Embedding`, a `Bidirectional` LSTM and a softmax layer.
    x, y : sequences of int arrays (t_i,)
    """

    def compiled() -> tuple[float, list[Array]]:
        loss, grads = model.loss_and_gradients(list(x), list(y))
        return loss, [g.dense() if isinstance(g, ops.SparseRows) else g for g in grads]

    ids, targets = (utils.pad_sequences(rows, padding="post") for rows in (x, y))
    weights = model.get_weights()
    tokens, cells = sum(map(len, x)), ids.size
    (seconds, grads), (slow, expected) = (
        _best(step, times) for step, times in ((compiled, 5), (lambda: numpy_step(weights, ids, targets), 1))
    )
    pairs = zip(grads, expected, strict=True)
    error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return "\n".join(
        [
            f"One training batch of {len(x)} lines, forward and backward:",
            f"  tokens             {tokens:>10,}",
            f"  padding skipped    {cells - tokens:>10,}  ({1 - tokens / cells:.0%} of the grid)",
            f"  fastmask           {1000 * seconds:>10.1f} ms  ({get_num_threads()} threads)",
            f"  NumPy reference    {1000 * slow:>10.1f} ms  ({slow / seconds:.1f} times as long)",
            f"  largest difference {error:>10.1e}  between their gradients, relative",
        ]
    )


def numpy_step(weights: Sequence[Array], ids: Array, y: Array) -> tuple[float, list[Array]]:
    """Return the loss of a padded batch and the gradients by `weights`, ids 0 being padding.

    Parameters
    ----------
    weights : sequence of ndarray
        Embeddings, three of the forward LSTM, three of the backward LSTM, kernel, bias.
    ids, y : ndarray of int, shape (B, T)
    """
    table, k_ahead, u_ahead, b_ahead, k_back, u_back, b_back, kernel, bias = weights
    mask = ids != 0
    vectors, pull_table = reference.embedding_vjp(ids, table)
    (ahead, _), pull_ahead = reference.lstm_vjp(
        vectors, k_ahead, u_ahead, b_ahead, mask=mask, zero_output_for_mask=True
    )
    (back, _), pull_back = reference.lstm_vjp(
        vectors, k_back, u_back, b_back, mask=mask, zero_output_for_mask=True, go_backwards=True
    )
    merged, pull_merged = reference.merge_directions_vjp(ahead, back, "concat")
    output, pull_dense = reference.dense_vjp(merged, kernel, bias, "softmax")
    loss, slope = losses.SparseCategoricalCrossentropy().value_and_gradient(y, output, mask=mask)
    d_merged, d_kernel, d_bias = pull_dense(slope)
    dy_ahead, dy_back = pull_merged(d_merged)
    d_ahead, d_back = pull_ahead(dy_ahead, None), pull_back(dy_back, None)
    d_table = pull_table(d_ahead.inputs + d_back.inputs)
    recurrent = [g for d in (d_ahead, d_back) for g in (d.kernel, d.recurrent_kernel, d.bias)]
    return loss, [np.asarray(grad) for grad in (d_table, *recurrent, d_kernel, d_bias)]


def _best(step: Step, times: int) -> tuple[float, list[Array]]:
    """Return the shortest time of several runs, after one to warm up, and the gradients."""
    _, grads = step()
    return min(timeit.repeat(step, number=1, repeat=times)), grads
