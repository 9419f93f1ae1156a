"""Layers keep their weights packed between calls, and nobody can tell: no change of a weight goes unseen."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import kernels, layers, ops
from fastmask.batch.packing import PackedSequence
from fastmask.ops import tuning

pytestmark = pytest.mark.usefixtures("packed_weights")
FEATURES = 5
LAYERS = {
    "LSTM": lambda **options: layers.LSTM(20, **options),
    "GRU": lambda **options: layers.GRU(20, **options),
    "GRU that resets before": lambda **options: layers.GRU(20, reset_after=False, **options),
    "SimpleRNN": lambda **options: layers.SimpleRNN(20, **options),
    "Dense": lambda **options: layers.Dense(20, **options),
}


@pytest.fixture
def made(monkeypatch):
    """The shapes of the matrices that have been packed since the last look."""
    shapes, module = [], kernels.module(np.dtype(np.float32))
    pack = module.pack_panels
    monkeypatch.setattr(module, "pack_panels", lambda x, *others: (shapes.append(x.shape), pack(x, *others))[1])
    return shapes


def batch(seed=0, rows=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6, FEATURES)).astype(np.float32), rng.random((rows, 6)) < 0.7


def make_model(kind, optimizer="sgd", **options):
    fm.utils.set_random_seed(1)
    inner = LAYERS[kind](name="inner", **options)
    model = fm.Sequential([fm.Input((6, FEATURES)), inner, layers.Flatten(), layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model, inner


def predicted(model):
    return model.predict_on_batch(batch()[0])


def by_a_new_model(kind, model, **options):
    other, _ = make_model(kind, **options)
    other.set_weights(model.get_weights())
    return predicted(other)


def train(model):
    model.train_on_batch(batch()[0], np.ones((4, 1), np.float32))


def fit(model):
    model.fit(batch()[0], np.ones((4, 1), np.float32), verbose=0)


def apply(model):
    kernel = model.layers[0].weights[0]
    model.optimizer.apply([np.ones(kernel.shape, kernel.dtype)], [kernel])


def assign_each(model):
    for variable in model.layers[0].weights:
        before = predicted(model)
        variable.assign(variable.value + np.float32(0.1))
        assert not np.array_equal(predicted(model), before), variable.path


def change_in_place(model):
    with model.layers[0].weights[1].changing() as array:
        array += 0.5


def halve(model):
    model.layers[0].set_weights([w / 2 for w in model.layers[0].get_weights()])


CHANGES = {
    "assign": assign_each,
    "changing": change_in_place,
    "set_weights of the layer": halve,
    "set_weights of the model": lambda model: model.set_weights([w + 1 for w in model.get_weights()]),
    "train_on_batch": train,
    "fit": fit,
    "apply": apply,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", LAYERS)
def test_predictions_follow_the_weights(kind, change, made):
    model, _ = make_model(kind)
    before = predicted(model)
    assert made
    made.clear()
    assert_same_bits(predicted(model), before)
    assert made == []
    CHANGES[change](model)
    after = predicted(model)
    assert not np.array_equal(after, before)
    assert_same_bits(after, by_a_new_model(kind, model))


@pytest.mark.parametrize("kind", LAYERS)
def test_predictions_follow_constraints(kind):
    """A training with steps of length 0 changes the weights by their constraint alone."""
    model, inner = make_model(kind, fm.optimizers.SGD(0.0), kernel_constraint="non_neg")
    before = predicted(model)
    train(model)
    assert (inner.kernel.value >= 0).all()
    after = predicted(model)
    assert not np.array_equal(after, before)
    assert_same_bits(after, by_a_new_model(kind, model))


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras"])
@pytest.mark.parametrize("kind", LAYERS)
def test_predictions_follow_files(kind, name, tmp_path):
    pytest.importorskip("h5py")
    model, _ = make_model(kind)
    first = predicted(model)
    (model.save if name.endswith("keras") else model.save_weights)(tmp_path / name)
    model.set_weights([w + 1 for w in model.get_weights()])
    assert not np.array_equal(predicted(model), first)
    model.load_weights(tmp_path / name)
    assert_same_bits(predicted(model), first)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_change_that_fails_halfway_is_seen(kind):
    model, inner = make_model(kind)
    before = predicted(model)

    def interrupted():
        with inner.kernel.changing() as array:
            array[0] = 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = predicted(model)
    assert not np.array_equal(after, before)
    assert_same_bits(after, by_a_new_model(kind, model))


@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_is_kept_from_the_middle_of_a_change(kind):
    model, inner = make_model(kind)
    predicted(model)
    with inner.kernel.changing() as array:
        array[0] = 3
        half = predicted(model)
        array[1] = 4
        assert not np.array_equal(predicted(model), half)
    assert_same_bits(predicted(model), by_a_new_model(kind, model))


def test_a_constraint_may_work_in_place():
    def halve(w):
        w *= 0.5
        return w

    dense = layers.Dense(1, kernel_constraint=halve, kernel_initializer="ones")
    model = fm.Sequential([fm.Input((2,)), dense])
    model.compile(fm.optimizers.SGD(0.0), "mse")
    model.train_on_batch(np.ones((1, 2)), np.ones((1, 1)))
    np.testing.assert_array_equal(dense.kernel.value, 0.5)


def make_program(op, units, dtype, bias, seed=2):
    """A program, and the operation on its weights that packs them anew."""
    rng, spec = np.random.default_rng(seed), None
    if op == "dense":
        weights = [rng.standard_normal(shape).astype(dtype) for shape in ((FEATURES, units), (units,))]
    else:
        cell, _, before = op.partition(", ")
        spec = ops.RNNSpec(cell, FEATURES, units, dtype, reset_after=not before)
        shapes = spec.kernel_shape, spec.recurrent_shape, spec.bias_shape
        weights = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    weights[-1] = weights[-1] if bias else None
    if spec is None:
        return ops.DenseProgram(*weights), lambda x: ops.dense(x, *weights)
    options = {"reset_after": spec.reset_after} if spec.cell == "gru" else {}
    return ops.RNNProgram(spec, *weights), lambda x: getattr(ops, spec.cell)(x, *weights, **options)


def results_of(program, x):
    if not isinstance(x, PackedSequence):
        return [program.run(x)]
    sequence, states = program.run(ops.Tokens(x.values, x.packing, x.index, x.index is not None, x.source))
    return [sequence, *states]


OPERATIONS = ["simple_rnn", "lstm", "gru", "gru, reset before", "dense"]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [1, 16, 33])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", OPERATIONS)
def test_a_program_gives_the_bits_of_operations_that_pack_each_time(op, bias, units, dtype):
    program, operation = make_program(op, units, dtype, bias)
    for seed in range(3):
        x, mask = batch(seed)
        sequences = [x.reshape(-1, FEATURES).astype(dtype)]
        if op != "dense":
            sequence = PackedSequence.from_padded(x.astype(dtype), mask)
            table = np.random.default_rng(seed).integers(0, 3, sequence.packing.tokens)
            sequences = [sequence, PackedSequence(sequence.values[:3].copy(), sequence.packing, table)]
        for entry in sequences:
            for a, b in zip(results_of(program, entry), _arrays(operation(entry)), strict=True):
                assert_same_bits(a, b)


def _arrays(result):
    if isinstance(result, np.ndarray):
        return [result]
    sequence, states = result
    return [sequence.values, *states]


@pytest.mark.parametrize("op", OPERATIONS)
def test_one_program_on_all_instruction_sets(op):
    program, operation = make_program(op, 12, "float32", True)
    x = batch()[0]
    entry = x.reshape(-1, FEATURES) if op == "dense" else PackedSequence.from_padded(x)
    for name in (*kernels.available(), *kernels.available()):
        with kernels.use(name):
            for a, b in zip(results_of(program, entry), _arrays(operation(entry)), strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("kind", LAYERS)
def test_another_instruction_set(kind):
    model, _ = make_model(kind)
    for name in (*kernels.available(), *kernels.available()):
        with kernels.use(name):
            assert_same_bits(predicted(model), by_a_new_model(kind, model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_copies_have_weights_of_their_own(kind, short, copied):
    with tuning.override(**dict.fromkeys(("FEW_TOKENS", "FEW_TOKENS_AT_FIRST"), 10**6 if short else -1)):
        check_copies(kind, copied)


def check_copies(kind, copied):
    layer, (x, _) = LAYERS[kind](), batch()
    layer.build((None, None, FEATURES))
    size = len(pickle.dumps(layer))
    y = layer(x)
    assert len(pickle.dumps(layer)) == size
    other = copied(layer)
    assert_same_bits(other(x), y)
    layer.set_weights([w + 1 for w in layer.get_weights()])
    assert_same_bits(other(x), y)
    changed = layer(x)
    other.set_weights([w - 1 for w in other.get_weights()])
    assert_same_bits(layer(x), changed)
    assert not np.array_equal(other(x), y)


def test_a_shallow_copy_of_a_variable_is_no_alias():
    variable = layers.Variable(np.ones(3), "w")
    other = copy.copy(variable)
    other.assign(np.zeros(3))
    np.testing.assert_array_equal(variable.value, 1)


@pytest.mark.parametrize("op", ["simple_rnn", "lstm", "gru"])
def test_a_cell_is_copied_without_what_is_compiled(op):
    gates = {"simple_rnn": 1, "lstm": 4, "gru": 3}[op]
    weights = [np.ones((n, gates * 3), np.float32) / 7 for n in (2, 3)]
    cell = ops.Cell(op, *weights)
    (expected, *_) = cell(np.ones((1, 2), np.float32))
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert_same_bits(other(np.ones((1, 2), np.float32))[0], expected)


class TestMemory:
    @pytest.fixture
    def alive(self, monkeypatch):
        """Tells which programs are alive of those that are made from now on, by their numbers."""
        found = []
        for kind in (ops.RNNProgram, ops.DenseProgram):
            monkeypatch.setattr(kind, "__init__", self.noting(kind.__init__, found))

        def alive():
            gc.collect()
            return [i for i, reference in enumerate(found) if reference() is not None]

        return alive

    def noting(self, init, found):
        def noting_init(program, *arguments):
            init(program, *arguments)
            found.append(weakref.ref(program))

        return noting_init

    @pytest.mark.parametrize("kind", LAYERS)
    def test_one_program_that_goes_with_its_weights(self, kind, alive):
        layer, (x, _) = LAYERS[kind](), batch()
        layer(x)
        layer(x)
        assert alive() == [0]
        layer.set_weights([w + 1 for w in layer.get_weights()])
        layer(x)
        assert alive() == [1]
        layer.vjp(x)
        assert alive() == [1]
        del layer
        assert alive() == []

    def test_training_keeps_one_a_layer(self, alive):
        model, _ = make_model("LSTM")
        fit(model)
        predicted(model)
        train(model)
        train(model)
        assert len(alive()) == 2


class TestReadOnly:
    def test_value(self):
        kernel = layers.Variable(np.ones((2, 3)), "kernel")
        with pytest.raises(ValueError, match="read-only"):
            kernel.value[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(kernel)[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            kernel.value.T[0] = 0
        with pytest.raises(AttributeError):
            kernel.value = np.zeros((2, 3))
        np.array(kernel)[:] = 0
        kernel.numpy()[:] = 0
        np.testing.assert_array_equal(kernel.value, 1)

    def test_copies_are_read_only_too(self):
        variable = layers.Variable(np.ones(2), "w")
        for kernel in (copy.copy(variable), copy.deepcopy(variable), pickle.loads(pickle.dumps(variable))):
            with pytest.raises(ValueError, match="read-only"):
                kernel.value[0] = 0
            kernel.assign([2, 3])
            np.testing.assert_array_equal(kernel.value, [2, 3])

    def test_state_of_an_optimizer(self):
        model, _ = make_model("Dense", "adam")
        train(model)
        slot = model.optimizer.variables[2]
        with pytest.raises(ValueError, match="read-only"):
            slot.value[...] = 0
        slot.assign(np.full(slot.shape, 7))
        np.testing.assert_array_equal(model.optimizer.variables[2].value, 7)

    def test_a_version_for_each_change(self):
        first, second = layers.Variable(np.ones(2), "a"), layers.Variable(np.ones(2), "b")
        versions = [first.version, second.version]
        first.assign([1, 1])
        versions.append(first.version)
        with first.changing():
            assert first.version is None
        versions.append(first.version)
        assert len(set(versions)) == 4
        with pytest.raises(ValueError, match="shape"):
            first.assign([1, 1, 1])
        assert first.version == versions[-1]


@pytest.mark.parametrize("kind", ["lstm", "gru", "simple_rnn"])
def test_an_operation_packs_each_matrix_once(kind, monkeypatch):
    layer, (x, mask) = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}[kind](20), batch()
    layer.build(x.shape)
    packed = []
    module = kernels.module(np.dtype(np.float32))
    plain = module.pack_panels
    monkeypatch.setattr(module, "pack_panels", lambda *arguments: (packed.append(1), plain(*arguments))[1])
    getattr(ops, kind)(PackedSequence.from_padded(x, mask), *[w.value for w in layer.weights], return_sequences=False)
    assert len(packed) == 2
