"""Single steps and short sequences give the bits of the operation on packed weights."""

import numpy as np
import pytest
from helpers.compiled import on_packed_weights
from helpers.numeric import assert_same_bits

from fastmask import kernels, layers, ops
from fastmask.batch.packing import PackedSequence

GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
LAYERS = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}


def make_weights(op, features, units, dtype, seed=0):
    rng = np.random.default_rng(seed)
    gates = GATES[op]
    shapes = (features, gates * units), (units, gates * units), (2, gates * units) if op == "gru" else (gates * units,)
    return [(0.5 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activations", [("tanh", "sigmoid"), ("relu", "hard_sigmoid")])
@pytest.mark.parametrize(("rows", "features", "units"), [(1, 3, 5), (1, 64, 128), (3, 17, 33), (2, 128, 97), (1, 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", GATES)
def test_steps_give_the_bits_of_the_sequence(op, bias, rows, features, units, activations, dtype):
    weights = make_weights(op, features, units, dtype)
    if not bias:
        weights[2] = None
    names = dict(zip(("activation", "recurrent_activation"), activations, strict=True))
    if op == "simple_rnn":
        del names["recurrent_activation"]
    x = np.random.default_rng(1).standard_normal((rows, 4, features)).astype(dtype)
    cell = ops.Cell(op, *weights, **names)
    states = None
    for t in range(x.shape[1]):
        states = cell(x[:, t], states)
        sequence = PackedSequence.from_padded(x[:, : t + 1])
        with on_packed_weights():
            _, expected = getattr(ops, op)(sequence, *weights, **names)
        for name, state, value in zip("hc", states, expected, strict=False):
            assert_same_bits(state, value, f"{name} after step {t}")


@pytest.mark.parametrize("op", GATES)
def test_one_cell_on_all_instruction_sets(op):
    weights = make_weights(op, 40, 33, np.float32)
    x = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    cell = ops.Cell(op, *weights)
    for name in (*kernels.available(), *kernels.available()):
        with kernels.use(name):
            for state, value in zip(cell(x), ops.Cell(op, *weights)(x), strict=True):
                assert_same_bits(state, value)


def some_rows(features, units, dtype, states):
    """Rows with holes, one of them without a step, NaN where it is masked, and states to start from."""
    rng = np.random.default_rng(3)
    mask = rng.random((5, 7)) < 0.6
    mask[3] = False
    mask[4] = True
    x = rng.standard_normal((5, 7, features)).astype(dtype)
    x[~mask] = np.nan
    return x, mask, tuple(rng.standard_normal((5, units)).astype(dtype) for _ in range(states))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("features", "units"), [(3, 5), (16, 32), (17, 33), (40, 97)])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("op", GATES)
def test_short_sequences_give_the_bits_of_packed_weights(op, given, backwards, features, units, dtype):
    weights = make_weights(op, features, units, dtype)
    x, mask, states = some_rows(features, units, dtype, 2 if op == "lstm" else 1)
    arguments = {"initial_state": states if given else None, "go_backwards": backwards}
    for batch in (PackedSequence.from_padded(x, mask), _with_index(x, mask)):
        sequence, after = getattr(ops, op)(batch, *weights, **arguments)
        _, after_alone = getattr(ops, op)(batch, *weights, **arguments, return_sequences=False)
        with on_packed_weights():
            expected, expected_after = getattr(ops, op)(batch, *weights, **arguments)
        assert_same_bits(sequence.pad(), expected.pad())
        for state, alone, value in zip(after, after_alone, expected_after, strict=True):
            assert_same_bits(state, value)
            assert_same_bits(alone, value)


@pytest.mark.parametrize("strided", [(0,), (1,), (0, 1)], ids=["kernel", "recurrent kernel", "both"])
@pytest.mark.parametrize("op", GATES)
def test_a_short_sequence_on_weights_in_another_order_of_memory(op, strided):
    weights = make_weights(op, 3, 5, np.float32)
    x = PackedSequence.from_padded(np.random.default_rng(1).standard_normal((2, 2, 3)).astype(np.float32))
    expected, _ = getattr(ops, op)(x, *weights)
    for number in strided:
        weights[number] = np.asfortranarray(weights[number])
    found, _ = getattr(ops, op)(x, *weights)
    assert_same_bits(found.values, expected.values)


def _with_index(x, mask):
    packed = PackedSequence.from_padded(x, mask)
    order = np.random.default_rng(4).permutation(packed.values.shape[0])
    return PackedSequence(packed.values[order], packed.packing, np.argsort(order))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"return_sequences": True}, {"return_sequences": True, "go_backwards": True}, {"return_state": True},
     {"zero_output_for_mask": True}, {"return_sequences": True, "zero_output_for_mask": True}],
)
@pytest.mark.parametrize("op", GATES)
def test_layers_on_short_sequences_give_the_bits_of_packed_weights(op, options, given, masked):
    layer = LAYERS[op](24, bias_initializer="uniform", **options)
    x, mask, states = some_rows(7, 24, np.float32, len(layer.state_names))
    if not masked:
        x, mask = np.nan_to_num(x), None
    layer.build(x.shape)
    found = layer(x, mask, states if given else None)
    with on_packed_weights():
        expected = layer(x, mask, states if given else None)
    for part, value in zip(*(y if isinstance(y, tuple) else (y,) for y in (found, expected)), strict=True):
        assert_same_bits(part, value)


@pytest.mark.parametrize("op", GATES)
def test_a_step_changes_neither_input_nor_states(op):
    cell = ops.Cell(op, *make_weights(op, 3, 20, np.float32))
    x = np.ones((2, 3), np.float32)
    states = cell(x)
    kept = [state.copy() for state in states]
    cell(x, states)
    for state, before in zip(states, kept, strict=True):
        assert_same_bits(state, before)
    assert (x == 1).all()


def test_a_cell_sees_changed_weights():
    weights = make_weights("lstm", 3, 20, np.float32)
    cell = ops.Cell("lstm", *weights)
    before = cell(np.ones((1, 3), np.float32))
    weights[0] *= 2
    after = cell(np.ones((1, 3), np.float32))
    assert not np.array_equal(before[0], after[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "rnn"}, "op: expected one of simple_rnn, lstm, gru, got 'rnn'"),
        ({"kernel": np.zeros((3, 79), np.float32)}, r"kernel: expected shape \(3, 80\), got \(3, 79\)"),
        ({"kernel": np.zeros((80, 3), np.float32).T}, "kernel: expected a C-contiguous, aligned array"),
        ({"bias": np.zeros(79, np.float32)}, r"bias: expected shape \(80,\), got \(79,\)"),
        ({"recurrent_kernel": np.zeros((20, 79), np.float32)}, r"recurrent_kernel: expected shape \(20, 80\)"),
        ({"activation": "mish"}, "activation"),
    ],
)
def test_bad_weights_are_named(change, message):
    names = ("kernel", "recurrent_kernel", "bias")
    arguments = dict(zip(names, make_weights("lstm", 3, 20, np.float32), strict=True)) | {"op": "lstm"} | change
    with pytest.raises(ValueError, match=message):
        ops.Cell(**arguments)


def test_bad_inputs_are_named():
    cell = ops.Cell("lstm", *make_weights("lstm", 3, 20, np.float32))
    x = np.ones((2, 3), np.float32)
    h = np.zeros((2, 20), np.float32)
    with pytest.raises(ValueError, match=r"x: expected shape \(2, 3\), got \(2, 4\)"):
        cell(np.ones((2, 4), np.float32))
    with pytest.raises(TypeError, match="x: expected float32"):
        cell(x.astype(float))
    with pytest.raises(ValueError, match="states: expected 2 arrays, got 1"):
        cell(x, (h,))
    with pytest.raises(ValueError, match=r"states\[1\]: expected shape \(2, 20\), got \(1, 20\)"):
        cell(x, (h, h[:1]))


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("op", GATES)
def test_a_stateful_layer_fed_step_by_step(op, return_sequences, return_state):
    options = {"return_sequences": return_sequences, "return_state": return_state}
    whole = LAYERS[op](24, stateful=True, **options)
    x = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    with on_packed_weights():
        outputs = whole(x)
    expected = outputs[0] if return_state else outputs
    streamed = LAYERS[op](24, stateful=True, **options)
    streamed.build(x.shape)
    streamed.set_weights(whole.get_weights())
    for t in range(5):
        outputs = streamed(x[:, t : t + 1].copy())
        parts = outputs if return_state else (outputs,)
        if return_sequences:
            assert_same_bits(parts[0][:, 0], expected[:, t])
        for part in parts:
            part[...] = np.nan  # the caller's own
    for state, value in zip(streamed.states, whole.states, strict=True):
        assert_same_bits(state, value)


@pytest.mark.parametrize("op", GATES)
def test_a_step_from_given_states(op):
    layer = LAYERS[op](24, return_state=True)
    x = np.random.default_rng(0).standard_normal((6, 1, 7)).astype(np.float32)
    rng = np.random.default_rng(1)
    states = [rng.standard_normal((6, 24)).astype(np.float32) for _ in layer.state_names]
    with on_packed_weights():
        expected = layer(x, initial_state=states)
    for row in range(6):
        y = layer(x[row : row + 1], initial_state=[state[row : row + 1] for state in states])
        for part, value in zip(y, expected, strict=True):
            assert_same_bits(part, value[row : row + 1])
    with pytest.raises(ValueError, match="initial_state"):
        layer(x[:1], initial_state=[np.zeros((2, 24), np.float32)] * len(states))


def test_dropout_still_acts_in_training():
    layer = layers.LSTM(24, dropout=0.5, seed=0)
    x = np.ones((1, 1, 7), np.float32)
    assert not np.array_equal(layer(x, training=True), layer(x))
