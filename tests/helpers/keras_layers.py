"""Recurrent layers of Keras run with and without the kernels, with gradients, on any backend."""

import keras
import numpy as np

import fastmask.keras as fk
from fastmask.keras import backends

BACKEND = keras.config.backend()
TRAINS = BACKEND != "numpy"

LAYERS = {
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {}),
    "gru_before": (keras.layers.GRU, {"reset_after": False}),
    "simple_rnn": (keras.layers.SimpleRNN, {}),
}
B, T, F, H = 5, 6, 3, 4


def masks(rng):
    """Masks (B, T) by name; each but "full" has rows of different lengths."""
    steps, lengths = np.arange(T), np.array([6, 4, 1, 3, 5])
    right = steps < lengths[:, None]
    holes = rng.random((B, T)) < 0.6
    holes[:, 2] = True
    empty = right.copy()
    empty[2] = False
    return {"none": None, "right": right, "left": right[:, ::-1].copy(), "holes": holes, "empty_row": empty}


def twins(kind, dtype="float32", seed=0, **options):
    """A built layer of Keras and one on the kernels, with the same weights."""
    cls, own = LAYERS[kind]
    made = []
    for chosen in (cls, getattr(fk, cls.__name__)):
        layer = chosen(H, dtype=dtype, **own, **options)
        layer.build((None, T, F))
        made.append(layer)
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(-0.7, 0.7, w.shape).astype(dtype) for w in made[0].get_weights()]
    for layer in made:
        layer.set_weights(weights)
    return made


def run(layer, x, states=None, factors=None, **call):
    """Outputs of a layer, and gradients of their sum times `factors` for the input, the states and the weights."""
    states = states or []
    if not TRAINS:
        options = {"initial_state": states} if states else {}
        return arrays(layer(x, **options, **call)), []
    return {"tensorflow": run_tensorflow, "torch": run_torch, "jax": run_jax}[BACKEND](
        layer, x, states, factors, call
    )


def loss_of(outputs, factors):
    total = 0.0
    for output, factor in zip(keras.tree.flatten(outputs), factors, strict=False):
        total = total + keras.ops.sum(output * factor)
    return total


def run_tensorflow(layer, x, states, factors, call):
    import tensorflow as tf

    variables = [tf.Variable(value) for value in [x, *states]]
    with tf.GradientTape() as tape:
        given = [tf.convert_to_tensor(v) for v in variables]
        outputs = layer(given[0], **({"initial_state": given[1:]} if states else {}), **call)
        loss = loss_of(outputs, factors)
    sources = [*variables, *[w.value for w in layer.trainable_weights]]
    gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
    return arrays(outputs), [tf.convert_to_tensor(g).numpy() for g in gradients]


def run_torch(layer, x, states, factors, call):
    import torch

    given = [torch.from_numpy(value.copy()).requires_grad_() for value in [x, *states]]
    outputs = layer(given[0], **({"initial_state": given[1:]} if states else {}), **call)
    sources = [*given, *[w.value for w in layer.trainable_weights]]
    factors = [torch.from_numpy(factor) for factor in factors]
    gradients = torch.autograd.grad(loss_of(outputs, factors), sources, allow_unused=True, materialize_grads=True)
    return arrays(outputs), [g.numpy() for g in gradients]


def run_jax(layer, x, states, factors, call):
    import jax

    def loss(given, weights):
        options = {"initial_state": list(given[1:])} if states else {}
        fixed = [v.value for v in layer.non_trainable_variables]
        outputs, _ = layer.stateless_call(weights, fixed, given[0], **options, **call)
        return loss_of(outputs, factors), outputs

    weights = [w.value for w in layer.trainable_variables]
    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)([x, *states], weights)
    return arrays(outputs), [np.asarray(g) for g in jax.tree_util.tree_leaves(gradients)]


def arrays(outputs):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def compare(kind, x, tolerance, states=None, options=None, seed=1, **call):
    """Assert that both layers agree in outputs and gradients, and that the kernels ran."""
    usual, fast = twins(kind, dtype=str(x.dtype), **(options or {}))
    rng = np.random.default_rng(seed)
    shown = (x.shape[0], *((x.shape[1],) if usual.return_sequences else ()), H)
    factors = [rng.standard_normal(shown).astype(x.dtype)]
    factors += [rng.standard_normal((x.shape[0], H)).astype(x.dtype) for _ in range(2 * usual.return_state)]
    expected, expected_gradients = run(usual, x, states, factors, **call)
    with counted() as calls:
        found, found_gradients = run(fast, x, states, factors, **call)
    assert calls, "the kernels did not run"
    assert len(found) == len(expected)
    for mine, theirs in zip(found + found_gradients, expected + expected_gradients, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * max(1.0, abs(theirs).max()))


class counted:  # noqa: N801
    """Records the runs on the kernels within a block."""

    def __enter__(self):
        self.module, calls = backends.current(), []
        self.own = self.module.run

        def run(recurrence, *rest):
            calls.append(recurrence)
            return self.own(recurrence, *rest)

        self.module.run = run
        return calls

    def __exit__(self, *_):
        self.module.run = self.own
