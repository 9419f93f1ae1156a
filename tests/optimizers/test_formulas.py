"""Optimizers against the formulas in NumPy: many steps, sparse gradients, clipping, decay."""

import numpy as np
import pytest

from fastmask import ops, optimizers, reference
from fastmask.layers import Variable
from fastmask.optimizers import schedules

SHAPE = (6, 3)
OPTIMIZERS = {
    "sgd": lambda **kw: optimizers.SGD(0.1, **kw),
    "momentum": lambda **kw: optimizers.SGD(0.1, momentum=0.9, **kw),
    "nesterov": lambda **kw: optimizers.SGD(0.1, momentum=0.9, nesterov=True, **kw),
    "rmsprop": lambda **kw: optimizers.RMSprop(0.01, **kw),
    "rmsprop_all": lambda **kw: optimizers.RMSprop(
        0.01, rho=0.8, momentum=0.5, epsilon=1e-3, centered=True, **kw
    ),
    "adam": lambda **kw: optimizers.Adam(0.01, **kw),
    "amsgrad": lambda **kw: optimizers.Adam(0.01, 0.8, 0.9, 1e-5, amsgrad=True, **kw),
}


def reference_steps(optimizer, param, grads):
    """Return the parameter after dense steps of the optimizer's formula."""
    state = [None if s is None else s.copy() for s in optimizer.new_state(param)]
    lr = optimizer.learning_rate
    for t, grad in enumerate(grads, 1):
        if isinstance(optimizer, optimizers.SGD):
            own = (optimizer.momentum, optimizer.nesterov)
            param, *state = reference.sgd_step(param, grad, *state, lr, *own)
        elif isinstance(optimizer, optimizers.RMSprop):
            own = (optimizer.rho, optimizer.momentum, optimizer.epsilon)
            param, *state = reference.rmsprop_step(param, grad, *state, lr, *own)
        else:
            betas = (optimizer.beta_1, optimizer.beta_2)
            alpha = reference.adam_alpha(lr, t, *betas)
            param, *state = reference.adam_step(
                param, grad, *state, alpha, *betas, optimizer.epsilon
            )
    return param


def sparse_gradients(rng, dtype, steps=4):
    """Gradients that touch a few rows each; row 5 is touched by none, row 0 only by the first."""
    choices = ([0, 2], [1, 3], [2], [])
    return [
        ops.SparseRows(
            np.array(ids, np.int64), rng.normal(size=(len(ids), SHAPE[1])).astype(dtype), SHAPE
        )
        for ids in choices[:steps]
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sparse", [False, True])
def test_steps(name, dtype, sparse):
    rng = np.random.default_rng(0)
    start = rng.normal(size=SHAPE).astype(dtype)
    variable, optimizer = Variable(start, "w"), OPTIMIZERS[name]()
    grads = sparse_gradients(rng, dtype)
    dense = [grad.dense() for grad in grads]
    for sparse_grad, dense_grad in zip(grads, dense, strict=True):
        optimizer.apply([sparse_grad if sparse else dense_grad], [variable])
    expected = reference_steps(optimizer, start.astype(np.float64), [g.astype(float) for g in dense])
    tolerance = 1e-12 if dtype == "float64" else 3e-6
    np.testing.assert_allclose(variable.value, expected, rtol=tolerance, atol=tolerance)
    assert variable.value.dtype == dtype
    np.testing.assert_array_equal(variable.value[5], start[5])


def test_rows_with_moments_still_move():
    rng = np.random.default_rng(1)
    for name in ("momentum", "adam"):
        variable, optimizer = Variable(rng.normal(size=SHAPE), "w"), OPTIMIZERS[name]()
        grads = sparse_gradients(rng, "float64", 2)
        optimizer.apply(grads[:1], [variable])
        after_one = variable.numpy()
        optimizer.apply(grads[1:], [variable])
        assert (variable.value[0] != after_one[0]).all()


def test_each_variable_has_its_own_state():
    rng = np.random.default_rng(2)
    values, grads = rng.normal(size=(2, *SHAPE)), rng.normal(size=(3, 2, *SHAPE))
    together, optimizer = [Variable(v, "w") for v in values], OPTIMIZERS["adam"]()
    for step in grads:
        optimizer.apply_gradients(zip(step, together, strict=True))
    assert optimizer.iterations == 3
    for i, value in enumerate(values):
        expected = reference_steps(optimizer, value, grads[:, i])
        np.testing.assert_allclose(together[i].value, expected, rtol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_clipping(sparse):
    big = ops.SparseRows(np.array([1, 4]), np.array([[3.0, 0, -4], [0, 12, 0]]), SHAPE)
    small = ops.SparseRows(np.array([0]), np.array([[0.3, 0, 0.4]]), SHAPE)
    grads = [big, small] if sparse else [big.dense(), small.dense()]

    def moved(**options):
        variables = [Variable(np.zeros(SHAPE), "w") for _ in grads]
        optimizers.SGD(1.0, **options).apply(grads, variables)
        return [-variable.value for variable in variables]

    first, second = moved(clipnorm=2.0)
    np.testing.assert_allclose(first, big.dense() * 2 / 13)
    np.testing.assert_allclose(second, small.dense())
    for found, grad in zip(moved(global_clipnorm=2.0), (big, small), strict=True):
        np.testing.assert_allclose(found, grad.dense() * 2 / np.hypot(13, 0.5))
    for found, grad in zip(moved(clipvalue=1.0), (big, small), strict=True):
        np.testing.assert_allclose(found, np.clip(grad.dense(), -1, 1))


def test_weight_decay_comes_before_the_update():
    variable = Variable(np.full(SHAPE, 2.0), "w")
    optimizers.SGD(0.5, weight_decay=0.1).apply([np.ones(SHAPE)], [variable])
    np.testing.assert_allclose(variable.value, 2.0 * (1 - 0.5 * 0.1) - 0.5)


def test_learning_rate_may_change():
    optimizer = optimizers.get("sgd")
    assert optimizer.learning_rate == 0.01
    optimizer.learning_rate = 1
    variable = Variable(np.zeros(2), "w")
    optimizer.apply([np.ones(2)], [variable])
    np.testing.assert_array_equal(variable.value, [-1, -1])
    with pytest.raises(ValueError, match="learning_rate: expected a number of at least 0, got -1"):
        optimizer.learning_rate = -1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_makes_an_equal_optimizer(name):
    optimizer = OPTIMIZERS[name](clipnorm=1.0, weight_decay=0.1, name="own")
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


def test_get():
    for name, cls in (("SGD", "SGD"), ("rmsprop", "RMSprop"), ("Adam", "Adam"), ("lazyadam", "LazyAdam")):
        assert isinstance(optimizers.get(name), getattr(optimizers, cls))
    assert isinstance(optimizers.get(optimizers.Adam), optimizers.Adam)
    with pytest.raises(ValueError, match=r"optimizer: expected one of adadelta, .*, sgd, got 'adm'"):
        optimizers.get("adm")
    with pytest.raises(TypeError, match="optimizer: expected a name or an Optimizer, got"):
        optimizers.get(0.1)


OTHERS = {
    "adamw": lambda **kw: optimizers.AdamW(0.01, **kw),
    "adagrad": lambda **kw: optimizers.Adagrad(0.1, **kw),
    "adadelta": lambda **kw: optimizers.Adadelta(0.5, **kw),
    "adamax": lambda **kw: optimizers.Adamax(0.01, **kw),
    "nadam": lambda **kw: optimizers.Nadam(0.01, **kw),
    "lion": lambda **kw: optimizers.Lion(0.01, **kw),
}


@pytest.mark.parametrize("name", OTHERS)
def test_sparse_gradients_count_as_dense_ones(name):
    rng = np.random.default_rng(3)
    start = rng.normal(size=SHAPE)
    variables, grads = [Variable(start, "w"), Variable(start, "w")], sparse_gradients(rng, "float64")
    sparse, dense = OTHERS[name](), OTHERS[name]()
    for grad in grads:
        sparse.apply([grad], variables[:1])
        dense.apply([grad.dense()], variables[1:])
    np.testing.assert_allclose(variables[0].value, variables[1].value, rtol=1e-12)


@pytest.mark.parametrize("name", OTHERS | OPTIMIZERS)
def test_state_as_variables(name):
    """Writing the values of one optimizer into another makes it go on as the first would."""
    rng = np.random.default_rng(4)
    make = (OTHERS | OPTIMIZERS)[name]
    values, grads = rng.normal(size=(2, *SHAPE)), rng.normal(size=(4, 2, *SHAPE))
    first, second = make(), make()
    weights = [Variable(v, "w") for v in values]
    for step in grads[:2]:
        first.apply(step, weights)
    copies = [Variable(v.value, "w") for v in weights]
    second.build(copies)
    pairs = zip(second.variables, first.variables, strict=True)
    for own, other in pairs:
        own.assign(other.value)
    for step in grads[2:]:
        first.apply(step, weights)
        second.apply(step, copies)
    assert second.iterations == 4
    for weight, copy in zip(weights, copies, strict=True):
        np.testing.assert_array_equal(copy.value, weight.value)


@pytest.mark.parametrize("name", OTHERS)
def test_config_of_the_others(name):
    optimizer = OTHERS[name](clipvalue=1.0, name="own")
    written = optimizers.serialize(optimizer)
    assert optimizers.get(written).get_config() == optimizer.get_config()


def test_schedule():
    schedule = schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = optimizers.SGD(schedule, weight_decay=0.1)
    variable = Variable(np.zeros(1), "w")
    for rate in (0.5, 0.25):
        assert optimizer.learning_rate == rate
        before = variable.numpy()
        optimizer.apply([np.ones(1)], [variable])
        np.testing.assert_allclose(variable.value, before * (1 - 0.1 * rate) - rate)
    assert [v.name for v in optimizer.variables] == ["iteration"]
    with pytest.raises(TypeError, match=r"cannot be set to a number, .*ExponentialDecay"):
        optimizer.learning_rate = 0.1
    again = optimizers.SGD.from_config(optimizer.get_config())
    assert again.learning_rate == 0.5
    assert optimizers.Adam(lambda: 0.125).learning_rate == 0.125


def test_schedules_of_ones_own():
    class Halved(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 1 / 2**step

        def get_config(self):
            return {}

    written = optimizers.SGD(Halved()).get_config()["learning_rate"]
    assert isinstance(schedules.deserialize(written, {"Halved": Halved}), Halved)
    with pytest.raises(ValueError, match="schedule: expected one of CosineDecay"):
        schedules.deserialize(written)


def test_excluded_variables_do_not_decay():
    variables = [Variable(np.ones(2), name) for name in ("kernel", "bias", "gamma")]
    optimizer = optimizers.AdamW(0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(variables[2:], var_names=["bi.s"])
    optimizer.apply([np.zeros(2)] * 3, variables)
    assert [float(v.value[0]) for v in variables] == pytest.approx([0.95, 1.0, 1.0])


def test_variables_without_gradient_stay():
    variables = [Variable(np.ones(2), "w") for _ in range(2)]
    optimizers.SGD(1.0, clipnorm=1.0).apply([None, np.array([3.0, 4.0])], variables)
    np.testing.assert_allclose([v.value for v in variables], [[1, 1], [0.4, 0.2]])


def test_arguments_that_are_off():
    off = {"use_ema": False, "ema_momentum": 0.99, "loss_scale_factor": None, "jit_compile": True}
    assert "use_ema" not in optimizers.SGD(0.1, **off).get_config()
    with pytest.warns(UserWarning, match="decay is ignored"):
        optimizers.SGD(0.1, decay=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.SGD(momentum=1.5), "momentum: expected a number between 0 and 1"),
        (lambda: optimizers.Adam("0.1"), "learning_rate: expected a number"),
        (lambda: optimizers.Adam(beta_1=-1), "beta_1: expected"),
        (lambda: optimizers.SGD(clipnorm=1, clipvalue=1), "clipnorm, clipvalue, global_clipnorm: expected at most one"),
        (lambda: optimizers.SGD(clipnorm=-1), "clipnorm: expected"),
        (lambda: optimizers.SGD(use_ema=True), "use_ema: expected False, since nothing else"),
        (lambda: optimizers.SGD(rate=1.0), "rate is no argument of an optimizer"),
        (lambda: schedules.CosineDecay(1.0, 0), "decay_steps: expected a number greater than 0"),
        (lambda: schedules.PiecewiseConstantDecay([1], [0.1]), "values: expected 2 entries, one more than boundaries"),
        (lambda: optimizers.SGD().apply([], [Variable(np.ones(1), "w")]), "grads: expected one"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_lazy_adam(amsgrad):
    """Rows with a gradient move by the steps made so far; the others, and their state, stay."""
    rng = np.random.default_rng(5)
    variable, optimizer = Variable(rng.normal(size=SHAPE), "w"), optimizers.LazyAdam(0.01, amsgrad=amsgrad)
    param, state = variable.numpy(), [np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE) if amsgrad else None]
    for t, grad in enumerate(sparse_gradients(rng, "float64"), 1):
        optimizer.apply([grad], [variable])
        alpha = reference.adam_alpha(0.01, t)
        param, *state = reference.lazy_adam_step(param, grad.ids, grad.rows, *state, alpha)
    np.testing.assert_allclose(variable.value, param, rtol=1e-12)
    for own, other in zip(optimizer.variables[2:], [s for s in state if s is not None], strict=True):
        np.testing.assert_allclose(own.value, other, rtol=1e-12)


def test_lazy_adam_with_dense_gradients_is_adam():
    rng = np.random.default_rng(6)
    values, grads = rng.normal(size=(2, *SHAPE)), rng.normal(size=(5, 2, *SHAPE))
    plain, lazy = ([Variable(v, "w") for v in values] for _ in range(2))
    optimizer, other = (cls(0.01, clipnorm=1.0) for cls in (optimizers.Adam, optimizers.LazyAdam))
    for grad in grads:
        optimizer.apply(grad, plain)
        other.apply(grad, lazy)
    for one, two in zip(plain, lazy, strict=True):
        np.testing.assert_array_equal(one.value, two.value)


def test_lazy_adam_has_no_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay: expected None.*got 0\.1"):
        optimizers.LazyAdam(weight_decay=0.1)
    config = optimizers.LazyAdam(beta_1=0.8, clipnorm=1.0).get_config()
    assert optimizers.LazyAdam.from_config(config).get_config() == config


def test_lion_rests_where_nothing_has_moved():
    """The sign of a running mean of 0 is 0."""
    variable, optimizer = Variable(np.ones(3), "w"), optimizers.Lion(0.5)
    for _ in range(2):
        optimizer.apply([np.array([1.0, 0.0, -1.0])], [variable])
    np.testing.assert_array_equal(variable.value, [0, 1, 2])
