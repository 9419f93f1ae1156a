"""fastmask.keras's layers against Keras's own: outputs, states, and gradients of inputs, states and weights.

One backend a process: ``make test-bridges`` runs these files for every one.
"""

import itertools

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras
from helpers.keras_layers import BACKEND, LAYERS, B, F, H, T, compare, counted, masks, run

import fastmask.keras as fk

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(0)
MASKS = masks(RNG)
X = RNG.standard_normal((B, T, F))
STATES = [RNG.standard_normal((B, H)) for _ in range(2)]
# Under the other backends Keras computes in float32 whatever it is told.
DTYPES = [("float32", 1e-5)] + ([("float64", 1e-10)] if BACKEND == "tensorflow" else [])
OPTIONS = [
    dict(zip(("return_sequences", "go_backwards", "zero_output_for_mask"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=3)
]
if BACKEND == "jax":
    # It compiles every case anew: each option on and off is enough.
    OPTIONS = OPTIONS[::3]


def states_of(kind, dtype):
    return [state.astype(dtype) for state in STATES[: 2 if kind == "lstm" else 1]]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(k for k, v in o.items() if v) or "last")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=lambda v: v if isinstance(v, str) else "")
def test_results_and_gradients_are_those_of_keras(kind, mask, options, dtype, tolerance):
    compare(
        kind, X.astype(dtype), tolerance, states_of(kind, dtype), {"return_state": True, **options}, mask=MASKS[mask]
    )


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("mask", ["none", "left"])
def test_layers_without_bias_and_states(kind, mask):
    options = {"use_bias": False, "return_sequences": True}
    compare(kind, X.astype("float32"), 1e-5, None, options, mask=MASKS[mask])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("activation", ["relu", "hard_sigmoid", "softsign", "elu", None])
def test_activations(kind, activation):
    options = {"activation": activation, "return_sequences": True}
    if kind != "simple_rnn":
        options["recurrent_activation"] = "hard_sigmoid" if activation == "relu" else activation
    compare(kind, (0.3 * X).astype("float32"), 1e-5, None, options, mask=MASKS["holes"])


@pytest.mark.parametrize("form", ["features", "float", "integer", "list"])
def test_forms_of_masks(form):
    mask = MASKS["holes"]
    given = {
        "features": mask[..., None],
        "float": mask.astype("float32"),
        "integer": 3 * mask.astype("int32"),
        "list": [keras.ops.convert_to_tensor(mask)],
    }[form]
    compare("lstm", X.astype("float32"), 1e-5, None, {"return_sequences": True}, mask=given)


@pytest.mark.parametrize("kind", LAYERS)
def test_unrolled_layers(kind):
    options = {"unroll": True, "return_sequences": True}
    compare(kind, X.astype("float32"), 1e-5, states_of(kind, "float32"), options, mask=MASKS["left"])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("mask", ["none", "right", "holes"])
def test_bidirectional(kind, merge_mode, return_sequences, mask):
    cls, own = LAYERS[kind]
    layers = []
    for chosen in (cls, getattr(fk, cls.__name__)):
        inner = chosen(H, return_sequences=return_sequences, **own)
        layer = keras.layers.Bidirectional(inner, merge_mode=merge_mode)
        layer.build((None, T, F))
        layers.append(layer)
    assert isinstance(layers[1].backward_layer, getattr(fk, cls.__name__))
    weights = [RNG.uniform(-0.7, 0.7, w.shape) for w in layers[0].get_weights()]
    shape = (B, *((T,) if return_sequences else ()), H * (2 if merge_mode == "concat" else 1))
    factors = [RNG.standard_normal(shape).astype("float32") for _ in range(2)]
    results = []
    with counted() as calls:
        for layer in layers:
            layer.set_weights(weights)
            results.append(run(layer, X.astype("float32"), None, factors, mask=MASKS[mask]))
    assert [recurrence.spec.go_backwards for recurrence in calls] == [False, True]
    for theirs, mine in zip(*(pair[0] + pair[1] for pair in results), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * max(1.0, abs(theirs).max()))


def test_padding_is_not_read():
    """NaN there is in no output, and in no gradient, which Keras's own path cannot say."""
    mask, x = MASKS["holes"], X.astype("float32")
    poisoned = np.where(mask[..., None], x, np.float32("nan"))
    layer = fk.LSTM(H, return_sequences=True)
    factors = [RNG.standard_normal((B, T, H)).astype("float32")]
    clean, clean_gradients = run(layer, x, None, factors, mask=mask)
    found, found_gradients = run(layer, poisoned, None, factors, mask=mask)
    for mine, theirs in zip(found + found_gradients, clean + clean_gradients, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_mask_of_another_length_is_an_error():
    with pytest.raises(Exception, match="mask"):
        run(fk.LSTM(H), X.astype("float32"), None, [np.ones((B, H), "float32")], mask=np.ones((B, T - 2), bool))


@pytest.mark.parametrize("kind", LAYERS)
def test_batches_of_no_rows(kind):
    cls, options = LAYERS[kind]
    layer = getattr(fk, cls.__name__)(H, return_sequences=True, **options)
    for mask in (None, np.ones((0, T), bool)):
        assert tuple(layer(X[:0].astype("float32"), mask=mask).shape) == (0, T, H)
