"""What optimizers know of rows at rest never outlives a change of the state, whoever makes it."""

import copy
import pickle

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import ops, optimizers
from fastmask.layers import Variable
from fastmask.saving import compiled

SHAPE = (30, 5)
MAKERS = {
    "sgd": lambda **kw: optimizers.SGD(0.1, **kw),
    "momentum": lambda **kw: optimizers.SGD(0.1, momentum=0.9, **kw),
    "rmsprop": lambda **kw: optimizers.RMSprop(0.01, momentum=0.5, centered=True, **kw),
    "adam": lambda **kw: optimizers.Adam(0.01, **kw),
    "amsgrad": lambda **kw: optimizers.Adam(0.01, amsgrad=True, **kw),
    "adamw": lambda **kw: optimizers.AdamW(0.01, **kw),
}
with_state = pytest.mark.parametrize("name", [name for name in MAKERS if name != "sgd"])


def gradient(ids, seed=0):
    rows = np.random.default_rng(seed).standard_normal((len(ids), SHAPE[1])).astype(np.float32)
    return ops.SparseRows(np.array(ids, np.int64), rows, SHAPE)


class Twins:
    """An optimizer that is given sparse gradients, and one that is given the same as dense ones."""

    def __init__(self, make, **options):
        values = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
        self.weights = [[Variable(value, "w") for value in values] for _ in range(2)]
        self.optimizers = [make(**options) for _ in range(2)]
        self.steps = 0

    def step(self, *ids, dense=False):
        """Make a step with other rows for each of the two variables."""
        self.steps += 1
        grads = [gradient(own, self.steps) for own in (ids, [(i + 1) % SHAPE[0] for i in ids])]
        whole = [grad.dense() for grad in grads]
        for optimizer, weights, given in zip(self.optimizers, self.weights, (whole if dense else grads, whole),
                                             strict=True):  # fmt: skip
            optimizer.apply(given, weights)
        self.compare()

    def compare(self):
        for sparse, dense in zip(*self.weights, strict=True):
            assert_same_bits(sparse.value, dense.value)
        for sparse, dense in zip(*(arrays_of(o) for o in self.optimizers), strict=True):
            assert_same_bits(sparse, dense)

    def set_slots(self, held):
        for slots in held:
            for slot in slots:
                slot.assign(np.full(slot.shape, 0.5))

    def slots(self):
        return [[slot for slot in o.variables if slot.shape == SHAPE] for o in self.optimizers]


def arrays_of(optimizer):
    """The state, without asking for the variables around it."""
    return [array for state in optimizer._states.values() for array in state if array is not None]


def knows(optimizer, variables):
    """Tell whether a step passes over the last rows although ones have been put into their state in secret."""
    arrays, values = arrays_of(optimizer), [variable.numpy() for variable in variables]
    kept = [array.copy() for array in arrays]
    for array in arrays:
        assert not array[-3:].any()
        array[-3:] = 1
    optimizer.apply([gradient([])] * len(variables), variables)
    passed = all((array[-3:] == 1).all() for array in arrays)
    for array, old in zip(arrays, kept, strict=True):
        array[...] = old
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    optimizer.iterations -= 1
    return passed


@pytest.mark.parametrize(
    "options", [{}, {"clipnorm": 0.5}, {"clipvalue": 0.3}, {"global_clipnorm": 0.5}, {"weight_decay": 0.1}], ids=str
)
@pytest.mark.parametrize("name", MAKERS)
def test_bits_of_dense_gradients(name, options):
    twins = Twins(MAKERS[name], **options)
    for ids in ([3, 1], [], [1, 20], [0], [3], range(9), [2]):
        twins.step(*ids)
    twins.step(7, dense=True)
    for ids in ([], [28], [], [4]):
        twins.step(*ids)


@with_state
def test_rows_at_rest_are_known(name):
    twins = Twins(MAKERS[name])
    twins.step(0)
    assert knows(twins.optimizers[0], twins.weights[0])
    held = twins.slots()
    twins.step(0)
    assert knows(twins.optimizers[0], twins.weights[0])
    assert held[0] == twins.slots()[0]
    held[0][0].assign(held[0][0].value)
    assert not knows(twins.optimizers[0], twins.weights[0])


@with_state
@pytest.mark.parametrize("taken", ["before", "after"])
def test_slots_that_are_held(name, taken):
    """They were taken before the first step, or after some, and are assigned much later, and again."""
    twins = Twins(MAKERS[name])
    for optimizer, weights in zip(twins.optimizers, twins.weights, strict=True):
        optimizer.build(weights)
    held = twins.slots() if taken == "before" else []
    for ids in ([0], [1]):
        twins.step(*ids)
    held = held or twins.slots()
    for _ in range(2):
        twins.step(2)
        twins.set_slots(held)
        twins.step(3)
        for slots in held:
            for slot in slots:
                with slot.changing() as array:
                    array[...] = 0
        twins.step(4)
        twins.step(5)


@with_state
def test_one_slot_alone(name):
    optimizer = MAKERS[name]()
    for number in range(len([array for array in optimizer.new_state(np.zeros(SHAPE)) if array is not None])):
        twins = Twins(MAKERS[name])
        twins.step(0)
        for slots in twins.slots():
            slots[2 * number].assign(np.full(SHAPE, 0.25))
        twins.step(1)
        for slots in twins.slots():
            slots[2 * number].assign(np.zeros(SHAPE))
        twins.step(2)


@with_state
def test_a_slot_that_is_being_changed(name):
    """A step within `changing` leaves nothing known, even if what it met was zeros."""
    twins = Twins(MAKERS[name])
    twins.step(0)
    held = twins.slots()
    twins.step(0)
    for slots in zip(*held, strict=True):
        with slots[0].changing() as first, slots[1].changing() as second:
            twins.step(1)
            first[9:12], second[9:12] = 0.5, 0.5
            twins.step(1)
            first[20:22], second[20:22] = 0.5, 0.5
        twins.step(1)


@with_state
@pytest.mark.parametrize("make", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_their_own_way(name, make):
    twins = Twins(MAKERS[name])
    twins.step(0)
    held = twins.slots()
    twins.step(0)
    pairs = list(zip(twins.optimizers, twins.weights, strict=True))
    twins.optimizers, twins.weights = map(list, zip(*make(pairs), strict=True))
    twins.step(1)
    twins.set_slots(held)  # of the original: nothing changes here
    twins.step(2)
    twins.set_slots(twins.slots())
    for optimizer in twins.optimizers:
        assert all((array == 0.5).all() for array in arrays_of(optimizer))
    twins.step(3)
    twins.step(4)


@with_state
def test_shallow_copies_share_what_they_know(name):
    """They share the state, so each must learn of the other's steps."""
    twins = Twins(MAKERS[name])
    twins.step(0)
    first, second = twins.optimizers, [copy.copy(optimizer) for optimizer in twins.optimizers]
    for optimizer in second:
        optimizer._states = {variable: copy.copy(state) for variable, state in optimizer._states.items()}
    for ids in ([1], [], [5], []):
        twins.step(*ids)
        twins.optimizers = first if twins.optimizers is second else second


@with_state
@pytest.mark.parametrize("blocks", [False, True])
def test_state_that_files_and_backups_write(name, blocks):
    twins = Twins(MAKERS[name])
    twins.step(0)
    twins.step(1)
    pairs = list(zip(twins.optimizers, twins.weights, strict=True))
    assert knows(*pairs[0])
    for number in range(len(compiled.slots(*pairs[0], blocks))):
        for optimizer, weights in pairs:
            compiled.slots(optimizer, weights, blocks)[number].assign(np.full(SHAPE, 0.5))
        twins.step(2)
        for optimizer, weights in pairs:
            compiled.slots(optimizer, weights, blocks)[number].assign(np.zeros(SHAPE))
        twins.step(1)


def test_training_goes_on_from_a_file(tmp_path):
    pytest.importorskip("h5py")
    x, y = np.array([[1, 2, 3], [4, 1, 0]]), np.ones((2, 1), np.float32)
    model = fm.Sequential([fm.layers.Embedding(20, 4, mask_zero=True), fm.layers.LSTM(3), fm.layers.Dense(1)])
    model.compile("adam", "mse")
    for number in range(6, 12):
        model.fit(np.full((1, 2), number), y[:1], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, epochs=3, verbose=0)
    for own, other in zip(loaded.weights, model.weights, strict=True):
        assert_same_bits(own.value, other.value, own.path)


class Halving(optimizers.Adam):
    """Changes all rows of the state before each third step."""

    def step(self, param, grad, state):
        if self.iterations % 3 == 2:
            state[0][...] = state[0] / 2 + 0.25
        super().step(param, grad, state)


class Twice(optimizers.Adam):
    """Makes two steps, and changes all rows of the state in between."""

    def step(self, param, grad, state):
        super().step(param, grad, state)
        state[0][...] += 0.25
        super().step(param, grad, state)


class Sharing(optimizers.SGD):
    """Hands the velocity to the user."""

    def new_state(self, param):
        state = super().new_state(param)
        self.held = [*getattr(self, "held", []), state[0]]
        return state


class Lists(optimizers.SGD):
    """Has a state of its own kind, whose array it changes for another."""

    def new_state(self, param):
        return list(super().new_state(param))

    def step(self, param, grad, state):
        state[0] = state[0] + 1
        super().step(param, grad, state)


def test_steps_that_are_overridden():
    for make in (lambda: Halving(0.01), lambda: Twice(0.01), lambda: Lists(0.1, 0.9)):
        twins = Twins(make)
        for ids in ([0], [1], [], [2], [], [3], [0]):
            twins.step(*ids)


def test_states_that_are_overridden():
    twins = Twins(lambda: Sharing(0.1, 0.9))
    for ids in ([0], [1], [], [2]):
        twins.step(*ids)
        for optimizer in twins.optimizers:
            for array in optimizer.held:
                array += 0.5


def test_a_step_of_one_instance():
    """It is replaced for some steps by one that changes the state by itself."""
    twins = Twins(MAKERS["adam"])
    twins.step(0)
    twins.step(1)
    for optimizer in twins.optimizers:
        optimizer.step = lambda param, grad, state: state[0].fill(0.5)
    twins.step(2)
    for optimizer in twins.optimizers:
        del optimizer.step
    twins.step(3)
    twins.step(4)


def test_direct_steps_on_states_of_ones_own():
    """Each state stands for itself, whichever the optimizer has met before."""
    optimizer = optimizers.Adam(0.01)
    optimizer.apply([gradient([0])], [Variable(np.zeros(SHAPE, np.float32), "w")])
    states, params = [], []
    for _ in range(2):
        param = np.zeros(SHAPE, np.float32)
        params.append(param)
        states.append(tuple(None if s is None else s.copy() for s in optimizer.new_state(param)))
    for number, ids in enumerate(([0], [1], [], [9])):
        grad = gradient(ids, number)
        for param, state, given in zip(params, states, (grad, grad.dense()), strict=True):
            optimizer.step(param, given, state)
            state[0][5:7] += 1
    assert_same_bits(*params)


class Dense(optimizers.Adam):
    """Makes all gradients dense."""

    def apply(self, grads, variables):
        super().apply([g.dense() if isinstance(g, ops.SparseRows) else g for g in grads], variables)


def test_regularizers():
    """They make the gradient dense for a while."""
    found = []
    for optimizer in (optimizers.Adam(0.01), Dense(0.01)):
        fm.utils.set_random_seed(0)
        layer = fm.layers.Embedding(9, 4, mask_zero=True)
        model = fm.Sequential([layer, fm.layers.GRU(3), fm.layers.Dense(1)])
        model.compile(optimizer, "mse")
        x, y = np.array([[1, 2, 0]]), np.ones((1, 1), np.float32)
        for regularizer in (None, fm.regularizers.L2(0.1), None):
            model.fit(x, y, epochs=2, verbose=0)
            layer.weights[0].regularizer = regularizer
        model.fit(x, y, epochs=2, verbose=0)
        found.append(layer.weights[0].numpy())
    assert_same_bits(*found)
