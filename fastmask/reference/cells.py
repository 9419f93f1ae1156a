"""One time step of each recurrent cell, and its pullback.

A step takes the projected input ``x_t W + b`` [B, G*H] and the states, each [B, H], and returns
the new states, the first of which is the output. Its pullback takes the cotangents of the new states
and returns those of the projected input, of the old states and of the recurrent parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .activations import Array, activation_vjp

States = tuple[Array, ...]
StepPullback = Callable[[States], tuple[Array, States, States]]
Step = Callable[[Array, States], tuple[States, StepPullback]]


def gate_matmul(x: Array, weights: Array, multiplier: Array | None) -> Array:
    """``(x * multiplier) @ weights`` with one multiplier for all gates or one for each.

    ``x`` [..., F], ``weights`` [F, G*H]; ``multiplier`` broadcasts to ``x``, or has a leading axis
    of G gates.
    """
    if multiplier is None:
        return x @ weights
    if multiplier.ndim == x.ndim:
        return (x * multiplier) @ weights
    blocks = np.split(weights, len(multiplier), axis=-1)
    return np.concatenate([(x * m) @ w for m, w in zip(multiplier, blocks, strict=True)], axis=-1)


def outer_sum(x: Array, dy: Array) -> Array:
    """Sum of ``x[..., :, None] * dy[..., None, :]`` over the leading axes."""
    tokens = math.prod(x.shape[:-1])
    return x.reshape(tokens, x.shape[-1]).T @ dy.reshape(tokens, dy.shape[-1])


def gate_matmul_backward(x: Array, weights: Array, multiplier: Array | None, dy: Array) -> tuple[Array, Array]:
    """Cotangents of ``x`` and ``weights`` of :func:`gate_matmul`."""
    if multiplier is None:
        return dy @ weights.T, outer_sum(x, dy)
    if multiplier.ndim == x.ndim:
        return (dy @ weights.T) * multiplier, outer_sum(x * multiplier, dy)
    gates = len(multiplier)
    blocks = np.split(weights, gates, axis=-1)
    dy_gates = np.split(dy, gates, axis=-1)
    dx = np.zeros_like(x)
    for m, w, d in zip(multiplier, blocks, dy_gates, strict=True):
        dx += (d @ w.T) * m
    d_weights = [outer_sum(x * m, d) for m, d in zip(multiplier, dy_gates, strict=True)]
    return dx, np.concatenate(d_weights, axis=-1)


def simple_rnn_step(recurrent_kernel: Array, multiplier: Array | None, activation: str) -> Step:
    """``h' = a(x W + b + h R)``."""

    def step(projected: Array, states: States) -> tuple[States, StepPullback]:
        (h,) = states
        z = projected + gate_matmul(h, recurrent_kernel, multiplier)
        h_new, pull = activation_vjp(z, activation)

        def pullback(d_states: States) -> tuple[Array, States, States]:
            dz = pull(d_states[0])
            dh, d_kernel = gate_matmul_backward(h, recurrent_kernel, multiplier, dz)
            return dz, (dh,), (d_kernel,)

        return (h_new,), pullback

    return step


def lstm_step(recurrent_kernel: Array, multiplier: Array | None, activation: str, recurrent_activation: str) -> Step:
    """``c' = s(f) c + s(i) a(g)``, ``h' = s(o) a(c')`` with ``[i, f, g, o] = x W + b + h R``."""

    def step(projected: Array, states: States) -> tuple[States, StepPullback]:
        h, c = states
        zi, zf, zg, zo = np.split(projected + gate_matmul(h, recurrent_kernel, multiplier), 4, axis=-1)
        i, pull_i = activation_vjp(zi, recurrent_activation)
        f, pull_f = activation_vjp(zf, recurrent_activation)
        g, pull_g = activation_vjp(zg, activation)
        o, pull_o = activation_vjp(zo, recurrent_activation)
        c_new = f * c + i * g
        shown, pull_shown = activation_vjp(c_new, activation)

        def pullback(d_states: States) -> tuple[Array, States, States]:
            dh, dc = d_states
            dc = dc + pull_shown(dh * o)
            dz = np.concatenate([pull_i(dc * g), pull_f(dc * c), pull_g(dc * i), pull_o(dh * shown)], axis=-1)
            dh_old, d_kernel = gate_matmul_backward(h, recurrent_kernel, multiplier, dz)
            return dz, (dh_old, dc * f), (d_kernel,)

        return (o * shown, c_new), pullback

    return step


def gru_step_reset_after(
    recurrent_kernel: Array,
    recurrent_bias: Array | None,
    multiplier: Array | None,
    activation: str,
    recurrent_activation: str,
) -> Step:
    """GRU that resets the candidate's recurrent product: ``n = a(x_n + r (h R_n + b_n))``."""

    def step(projected: Array, states: States) -> tuple[States, StepPullback]:
        (h,) = states
        recurrent = gate_matmul(h, recurrent_kernel, multiplier)
        if recurrent_bias is not None:
            recurrent = recurrent + recurrent_bias
        xz, xr, xn = np.split(projected, 3, axis=-1)
        hz, hr, hn = np.split(recurrent, 3, axis=-1)
        z, pull_z = activation_vjp(xz + hz, recurrent_activation)
        r, pull_r = activation_vjp(xr + hr, recurrent_activation)
        n, pull_n = activation_vjp(xn + r * hn, activation)

        def pullback(d_states: States) -> tuple[Array, States, States]:
            (dh,) = d_states
            dz = pull_z(dh * (h - n))
            dn = pull_n(dh * (1 - z))
            dr = pull_r(dn * hn)
            d_recurrent = np.concatenate([dz, dr, dn * r], axis=-1)
            dh_old, d_kernel = gate_matmul_backward(h, recurrent_kernel, multiplier, d_recurrent)
            d_projected = np.concatenate([dz, dr, dn], axis=-1)
            d_bias = () if recurrent_bias is None else (d_recurrent.sum(axis=0),)
            return d_projected, (dh * z + dh_old,), (d_kernel, *d_bias)

        return (z * h + (1 - z) * n,), pullback

    return step


def gru_step_reset_before(
    recurrent_kernel: Array, multiplier: Array | None, activation: str, recurrent_activation: str
) -> Step:
    """GRU that resets the state: ``n = a(x_n + (r h) R_n)``."""
    units = recurrent_kernel.shape[1] // 3
    gate_kernel, candidate_kernel = recurrent_kernel[:, : 2 * units], recurrent_kernel[:, 2 * units :]
    gate_multiplier = candidate_multiplier = multiplier
    if multiplier is not None and multiplier.ndim == 3:
        gate_multiplier, candidate_multiplier = multiplier[:2], multiplier[2]

    def step(projected: Array, states: States) -> tuple[States, StepPullback]:
        (h,) = states
        xz, xr, xn = np.split(projected, 3, axis=-1)
        hz, hr = np.split(gate_matmul(h, gate_kernel, gate_multiplier), 2, axis=-1)
        z, pull_z = activation_vjp(xz + hz, recurrent_activation)
        r, pull_r = activation_vjp(xr + hr, recurrent_activation)
        hn = gate_matmul(r * h, candidate_kernel, candidate_multiplier)
        n, pull_n = activation_vjp(xn + hn, activation)

        def pullback(d_states: States) -> tuple[Array, States, States]:
            (dh,) = d_states
            dz = pull_z(dh * (h - n))
            dn = pull_n(dh * (1 - z))
            d_reset, d_candidate = gate_matmul_backward(r * h, candidate_kernel, candidate_multiplier, dn)
            dr = pull_r(d_reset * h)
            d_gates = np.concatenate([dz, dr], axis=-1)
            dh_old, d_gate = gate_matmul_backward(h, gate_kernel, gate_multiplier, d_gates)
            d_kernel = np.concatenate([d_gate, d_candidate], axis=-1)
            d_projected = np.concatenate([dz, dr, dn], axis=-1)
            return d_projected, (dh * z + d_reset * r + dh_old,), (d_kernel,)

        return (z * h + (1 - z) * n,), pullback

    return step
