"""Recurrent layers on padded tensors, with weights in Keras's form.

Each function takes a batch (B, T, F) and a mask (B, T), computes the valid steps only, and is differentiable in all
its float tensors. Tensors are dense, on the CPU, all float32 or all float64; under autocast those of half precision
are widened to float32. Gradients of gradients, and transforms such as ``torch.vmap``, run in PyTorch's own operators.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmask.ops._activations import recurrent_code
from fastmask.ops.rnn import CELLS
from fastmask.torch._checks import check_shape, check_tensor, differentiable, widen
from fastmask.torch._plan import padded_plan
from fastmask.torch._tape import Inputs, Options
from fastmask.torch._ways import way

__all__ = ["gru", "lstm", "simple_rnn"]
Result = tuple[Tensor | None, tuple[Tensor, ...]]


def lstm(
    x: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None = None,
    initial_state: Sequence[Tensor] | None = None, *, mask: Tensor | None = None, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", go_backwards: bool = False, return_sequences: bool = True,
    zero_output_for_mask: bool = False,
) -> Result:
    """Run an LSTM with Keras's gates i, f, c, o.

    Parameters
    ----------
    x : tensor (B, T, F)
        What stands where the mask is False is not read.
    kernel : tensor (F, 4H)
    recurrent_kernel : tensor (H, 4H)
    bias : tensor (4H,), optional
    initial_state : sequence of two tensors (B, H), optional
        h and c; zeros by default.
    mask : bool tensor (B, T), optional
        Which steps count, in any pattern; all by default.
    activation : str or None, default "tanh"
        Of the candidate and the output; one of :data:`fastmask.ops.RECURRENT_ACTIVATIONS`; None is linear.
    recurrent_activation : str or None, default "sigmoid"
        Of the gates.
    go_backwards : bool, default False
        Run from the last step to the first. The sequence is then in the order of the run, as in Keras.
    return_sequences : bool, default True
        Return the outputs of all steps.
    zero_output_for_mask : bool, default False
        Masked places of the sequence hold zeros; otherwise the output before them, and zeros before the first.

    Returns
    -------
    sequence : tensor (B, T, H) or None
    states : tuple of two tensors (B, H)
        h and c after the last valid step; the initial states where a row has none.

    Raises
    ------
    TypeError, ValueError
        Where a tensor has another dtype, device or shape, or a name is unknown.
    RuntimeError
        Where the call is recorded by TorchScript or an ONNX exporter.
    """
    options = Options("lstm", "keras", activation or "linear", recurrent_activation or "linear", True, go_backwards,
                      return_sequences)
    return run(options, x, (kernel, recurrent_kernel, bias), initial_state, mask, repeat=not zero_output_for_mask)


def gru(
    x: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None = None,
    initial_state: Sequence[Tensor] | None = None, *, mask: Tensor | None = None, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", reset_after: bool = True, go_backwards: bool = False,
    return_sequences: bool = True, zero_output_for_mask: bool = False,
) -> Result:
    """Run a GRU with Keras's gates z, r, h.

    Parameters
    ----------
    x, initial_state, mask, activation, recurrent_activation, go_backwards, return_sequences, zero_output_for_mask
        As for :func:`lstm`, with one state.
    kernel : tensor (F, 3H)
    recurrent_kernel : tensor (H, 3H)
    bias : tensor (2, 3H), or (3H,) without ``reset_after``, optional
    reset_after : bool, default True
        Apply the reset gate after the recurrent product.

    Returns
    -------
    sequence : tensor (B, T, H) or None
    states : tuple of one tensor (B, H)
    """
    options = Options("gru", "keras", activation or "linear", recurrent_activation or "linear", reset_after,
                      go_backwards, return_sequences)
    return run(options, x, (kernel, recurrent_kernel, bias), initial_state, mask, repeat=not zero_output_for_mask)


def simple_rnn(
    x: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None = None,
    initial_state: Sequence[Tensor] | None = None, *, mask: Tensor | None = None, activation: str | None = "tanh",
    go_backwards: bool = False, return_sequences: bool = True, zero_output_for_mask: bool = False,
) -> Result:
    """Run a simple recurrent layer, ``h' = activation(x @ kernel + bias + h @ recurrent_kernel)``.

    Parameters
    ----------
    x, initial_state, mask, activation, go_backwards, return_sequences, zero_output_for_mask
        As for :func:`lstm`, with one state.
    kernel : tensor (F, H)
    recurrent_kernel : tensor (H, H)
    bias : tensor (H,), optional

    Returns
    -------
    sequence : tensor (B, T, H) or None
    states : tuple of one tensor (B, H)
    """
    options = Options("simple_rnn", "keras", activation or "linear", "linear", True, go_backwards, return_sequences)
    return run(options, x, (kernel, recurrent_kernel, bias), initial_state, mask, repeat=not zero_output_for_mask)


def run(
    options: Options, x: Tensor, weights: tuple[Tensor, Tensor, Tensor | None], initial_state: Sequence[Tensor] | None,
    mask: Tensor | None, *, repeat: bool,
) -> Result:
    """What the three functions do: check, pack, run and unpack."""
    inputs = _checked(options, x, weights, initial_state)
    plan = padded_plan(way((*inputs.tensors, mask)), x.shape[:2], mask, None)
    recorded = differentiable(inputs.tensors)
    values, states = plan.run(options, inputs._replace(values=plan.pack(inputs.values)), recorded)
    if values is None:
        return None, states
    return plan.unpack(values, repeat=repeat, flipped=options.go_backwards), states


def _checked(
    options: Options, x: Tensor, weights: tuple[Tensor, Tensor, Tensor | None], initial_state: Sequence[Tensor] | None
) -> Inputs:
    recurrent_code("activation", options.activation)
    recurrent_code("recurrent_activation", options.recurrent_activation)
    cell = CELLS[options.cell]
    states = () if initial_state is None else tuple(initial_state)
    if initial_state is not None and len(states) != len(cell.states):
        raise ValueError(f"initial_state: expected {len(cell.states)} tensors, got {len(states)}")
    kernel, recurrent_kernel, bias = weights
    named = {"x": x, "kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    named |= {f"initial_state[{n}]": state for n, state in enumerate(states)}
    wide = {name: widen(tensor) for name, tensor in named.items() if isinstance(tensor, Tensor)}
    for name, tensor in named.items():
        if name != "bias" or tensor is not None:
            check_tensor(name, wide.get(name, tensor), wide["x"].dtype if "x" in wide else None)
    if x.dim() != 3:
        raise ValueError(f"x: expected shape (batch, steps, features), got {tuple(x.shape)}")
    if recurrent_kernel.dim() != 2:
        raise ValueError(f"recurrent_kernel: expected two dimensions, got {tuple(recurrent_kernel.shape)}")
    units, columns = recurrent_kernel.shape[0], cell.gates * recurrent_kernel.shape[0]
    check_shape("kernel", kernel, (x.shape[2], columns))
    check_shape("recurrent_kernel", recurrent_kernel, (units, columns))
    if bias is not None:
        check_shape("bias", bias, (2, columns) if options.cell == "gru" and options.reset_after else (columns,))
    for n, state in enumerate(states):
        check_shape(f"initial_state[{n}]", state, (x.shape[0], units))
    return Inputs(
        wide["x"], (wide["kernel"], wide["recurrent_kernel"], wide.get("bias"), None),
        tuple(wide[f"initial_state[{n}]"] for n in range(len(states))),
    )
