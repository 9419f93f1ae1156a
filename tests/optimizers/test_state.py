"""What optimizers prepare for a step never outlives a change of what it was made from, whoever makes it."""

import copy
import pickle

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import ops, optimizers, threads
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
    """Return the arrays of the state without making variables of them, as asking for those would lend them."""
    return [array for state in optimizer._states.values() for array in state if array is not None]


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
@pytest.mark.parametrize("taken", ["before", "after"])
def test_slots_that_are_held(name, taken):
    """A slot taken before the first step, or after some, may be assigned much later, and more than once."""
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
def test_shallow_copies_share_the_state(name):
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
    """The step of one optimizer is replaced for a while by one that changes the state itself."""
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
    """A step on a state that the caller holds depends on no state that the optimizer has met before."""
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


@pytest.fixture
def programs(monkeypatch):
    """The arrays of each program that is made."""
    made, init = [], ops.UpdateProgram.__init__

    def noted(self, rule, arrays):
        made.append(arrays)
        init(self, rule, arrays)

    monkeypatch.setattr(ops.UpdateProgram, "__init__", noted)
    return made


@pytest.mark.parametrize("name", MAKERS)
def test_one_program_for_many_steps(name, programs):
    optimizer, weights = MAKERS[name](), [Variable(np.ones(SHAPE, np.float32), "w") for _ in range(3)]
    for number in range(4):
        optimizer.apply([gradient([number]), np.ones(SHAPE, np.float32), None], weights)
        weights[0].assign(np.full(SHAPE, number))
        for slot in optimizer.variables:
            slot.assign(slot.value)
    assert len(programs) == 1
    optimizer.apply([gradient([1]), np.ones(SHAPE, np.float32), gradient([2])], weights)
    assert len(programs) == 2


@with_state
@pytest.mark.parametrize("what", ["weight", "state"])
def test_arrays_that_are_replaced(name, what, programs):
    """The step is made on the new array, and the old one keeps its numbers."""
    optimizer, weight = MAKERS[name](), Variable(np.ones(SHAPE, np.float32), "w")
    optimizer.apply([gradient([1])], [weight])
    old = weight._array if what == "weight" else optimizer._states[weight][0]
    kept = old.copy()
    if what == "weight":
        weight.__setstate__(weight.__getstate__())
    else:
        optimizer._states[weight] = tuple(None if a is None else a.copy() for a in optimizer._states[weight])
    optimizer.apply([gradient([2])], [weight])
    assert len(programs) == 2
    assert_same_bits(old, kept)
    new = weight.value if what == "weight" else optimizer._states[weight][0]
    assert not np.array_equal(new, kept)


def test_a_variable_that_comes_twice():
    """A variable that comes twice in one call takes one step after the other."""
    grads = [gradient([1, 2]), np.full(SHAPE, 0.5, np.float32)]
    first, second = (Variable(np.ones(SHAPE, np.float32), "w") for _ in range(2))
    twice, once = (optimizers.SGD(0.1, momentum=0.9) for _ in range(2))
    twice.apply(grads, [first, first])
    for grad in grads:
        once.apply([grad], [second])
    assert_same_bits(first.value, second.value)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bad", [np.ones((2, 2), np.float32), gradient([30]), np.ones(SHAPE), gradient([1])._replace(
    rows=np.ones((1, 4), np.float32))], ids=["shape", "id", "dtype", "rows"])  # fmt: skip
def test_a_refused_gradient_changes_nothing(name, bad):
    """After a refused gradient the other weights and the optimizer are as they were."""
    optimizer = MAKERS[name](weight_decay=0.1)
    weights = [Variable(np.ones(SHAPE, np.float32), "w") for _ in range(2)]
    optimizer.apply([gradient([1])] * 2, weights)
    before = [variable.numpy() for variable in (*weights, *optimizer.variables)]
    with pytest.raises((TypeError, ValueError, IndexError), match=r"\bgradient\b"):
        optimizer.apply([gradient([1]), bad], weights)
    for variable, old in zip((*weights, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(variable.value, old)


@pytest.mark.parametrize("fails", [False, True])
def test_versions(fails, monkeypatch):
    """Versions are None while a step runs, and have changed when it ends, even if an error ends it."""
    optimizer, weights = optimizers.Adam(), [Variable(np.ones(SHAPE, np.float32), "w") for _ in range(3)]
    before, run = [weight.version for weight in weights], threads.run

    def watched(tasks, most):
        assert [weight.version for weight in weights] == [None, None, before[2]]
        run(tasks, most)
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr(threads, "run", watched)
    try:
        optimizer.apply([gradient([1]), gradient([2]), None], weights)
    except KeyboardInterrupt:
        assert fails
    after = [weight.version for weight in weights]
    assert len({*before, *after}) == 5
    assert None not in after
    assert optimizer.iterations == (0 if fails else 1)


class Dense(optimizers.Adam):
    """Makes all gradients dense."""

    def apply(self, grads, variables):
        super().apply([g.dense() if isinstance(g, ops.SparseRows) else g for g in grads], variables)


def test_regularizers():
    """A regularizer makes the gradient dense, and without it the sparse steps go on from the same state."""
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
