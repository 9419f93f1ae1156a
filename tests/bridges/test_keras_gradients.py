"""Exact gradients, and what is particular to each backend: repeated and second derivatives, tracing."""

import logging

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

from helpers.keras_layers import BACKEND, LAYERS, TRAINS, B, F, H, T, counted, masks, run

import fastmask.keras as fk
from fastmask.keras import recurrence
from fastmask.keras.recurrence import Pullbacks, Recurrence
from fastmask.ops.rnn import RNNSpec

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(2)
X = RNG.standard_normal((B, T, F)).astype("float32")
MASKS = masks(RNG)


def recurrence_of(op, go_backwards=False, precision="float64", **changes):
    options = {"return_sequences": True, "zero_output_for_mask": False, "shows_initial_state": False}
    return Recurrence(RNNSpec(op, F, H, precision, go_backwards=go_backwards), **options | changes)


def arguments(op, rng):
    gates = {"lstm": 4, "gru": 3, "simple_rnn": 1}[op]
    bias = (2, 3 * H) if op == "gru" else (gates * H,)
    shapes = [(B, T, F), (F, gates * H), (H, gates * H), bias, *[(B, H)] * (2 if op == "lstm" else 1)]
    return [rng.uniform(-0.8, 0.8, shape) for shape in shapes]


@pytest.mark.parametrize("shows_initial_state", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("op", ["lstm", "gru", "simple_rnn"])
def test_pullbacks_against_central_differences(op, return_sequences, zero, go_backwards, shows_initial_state):
    spec = recurrence_of(
        op, return_sequences=return_sequences, zero_output_for_mask=zero, go_backwards=go_backwards,
        shows_initial_state=shows_initial_state,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    mask = rng.random((B, T)) < 0.6
    mask[1] = False
    given = arguments(op, rng)
    results, pullback = recurrence.run_vjp(spec, given, mask)
    for mine, theirs in zip(recurrence.run(spec, given, mask), results, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    factors = [rng.standard_normal(result.shape) for result in results]
    gradients = pullback(*factors)

    def loss():
        return sum((r * f).sum() for r, f in zip(recurrence.run(spec, given, mask), factors, strict=True))

    for array, gradient in zip(given, gradients, strict=True):
        assert gradient.shape == array.shape
        for place in rng.integers(array.size, size=12):
            cell, before = np.unravel_index(place, array.shape), array.flat[place]
            array[cell] = before + 1e-6
            above = loss()
            array[cell] = before - 1e-6
            below = loss()
            array[cell] = before
            assert abs((above - below) / 2e-6 - gradient[cell]) < 1e-7


def test_handles_are_taken_once_and_forgotten_ones_run_again():
    spec, given = recurrence_of("lstm"), arguments("lstm", RNG)
    kept = Pullbacks(spec)
    handles = [kept.forward(given, MASKS["holes"])[1] for _ in range(5)]
    assert len({*handles}) == 5
    d = [RNG.standard_normal(r.shape) for r in recurrence.run(spec, given, MASKS["holes"])]
    first = kept.backward(handles[-1], given, MASKS["holes"], d)
    for handle in (handles[-1], handles[0], 0):
        for mine, theirs in zip(kept.backward(handle, given, MASKS["holes"], d), first, strict=True):
            np.testing.assert_array_equal(mine, theirs)


tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="about PyTorch")
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="about JAX")


@tensorflow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_a_persistent_tape_gives_the_same_twice(training, graph):
    import tensorflow as tf

    layer = fk.GRU(H, return_sequences=True)
    layer.build(X.shape)

    def both(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, mask=MASKS["holes"], training=training) ** 2)
        return [tape.gradient(loss, [x, layer.cell.kernel.value]) for _ in range(2)]

    first, second = (tf.function(both) if graph else both)(tf.constant(X))
    for mine, theirs in zip(second, first, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert abs(first[0].numpy()).max() > 0


@tensorflow
def test_second_derivatives_are_refused():
    import tensorflow as tf

    layer, x = fk.LSTM(H), tf.Variable(X)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = tf.reduce_sum(layer(x))
        gradient = inner.gradient(loss, x)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        outer.gradient(gradient, x)


@tensorflow
def test_graphs_of_unknown_sizes_keep_what_is_known():
    import tensorflow as tf

    layer = fk.LSTM(H, return_sequences=True, return_state=True)
    layer.build((None, None, F))

    @tf.function(input_signature=[tf.TensorSpec((None, None, F)), tf.TensorSpec((None, None), tf.bool)])
    def call(x, mask):
        shown, h, c = layer(x, mask=mask)
        assert shown.shape.as_list() == [None, None, H]
        assert h.shape.as_list() == c.shape.as_list() == [None, H]
        return shown

    for rows, steps in ((B, T), (2, 3)):
        mask = MASKS["right"][:rows, :steps]
        expected = layer(X[:rows, :steps], mask=mask)[0]
        np.testing.assert_allclose(call(X[:rows, :steps], mask), expected, atol=1e-6)


@tensorflow
def test_functions_compiled_by_xla_stay_with_keras(caplog):
    import tensorflow as tf

    layer = fk.SimpleRNN(H, name="compiled")
    expected = layer(X).numpy()
    with counted() as calls, caplog.at_level(logging.WARNING, "fastmask"):
        found = tf.function(layer, jit_compile=True)(tf.constant(X))
    assert not calls
    assert "jit_compile=True" in caplog.text
    np.testing.assert_allclose(found, expected, atol=1e-6)


@torch_only
def test_a_retained_graph_gives_the_same_twice():
    import torch

    layer, x = fk.LSTM(H, return_sequences=True), torch.from_numpy(X.copy()).requires_grad_()
    loss = (layer(x, mask=torch.from_numpy(MASKS["holes"])) ** 2).sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(second, first)


@jax_only
def test_jit_vmap_and_repeated_gradients():
    import jax

    layer = fk.LSTM(H, return_sequences=True)
    layer.build(X.shape)
    weights = [w.value for w in layer.trainable_variables]
    fixed = [v.value for v in layer.non_trainable_variables]

    def loss(x, mask):
        return (layer.stateless_call(weights, fixed, x, mask=mask)[0] ** 2).sum()

    gradient = jax.grad(loss)
    expected = np.asarray(gradient(X, MASKS["holes"]))
    np.testing.assert_allclose(jax.jit(gradient)(X, MASKS["holes"]), expected, atol=1e-6)
    _, pullback = jax.vjp(lambda x: loss(x, MASKS["holes"]), X)
    for _ in range(3):
        np.testing.assert_allclose(pullback(np.float32(1))[0], expected, atol=1e-6)
    one = jax.vmap(lambda x, mask: gradient(x[None], mask[None])[0])
    np.testing.assert_allclose(one(X, MASKS["holes"]), expected, atol=1e-5)


@pytest.mark.skipif(not TRAINS, reason="NumPy does not train")
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_in_training_and_inference_agree(kind):
    cls, own = LAYERS[kind]
    layer = getattr(fk, cls.__name__)(H, return_sequences=True, **own)
    layer.build(X.shape)
    factors = [RNG.standard_normal((B, T, H)).astype("float32")]
    pairs = [run(layer, X, None, factors, mask=MASKS["left"], training=training) for training in (False, True)]
    for mine, theirs in zip(pairs[1][0] + pairs[1][1], pairs[0][0] + pairs[0][1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
