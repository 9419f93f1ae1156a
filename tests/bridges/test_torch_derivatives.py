"""Gradients of gradients, forward derivatives and torch.func on layers: PyTorch's own operators compute them."""

import pytest
from helpers.masks import make_mask
from helpers.recurrent import CELLS, make_problem

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

from fastmask import ops  # noqa: E402
from fastmask.torch import functional  # noqa: E402

# PyTorch's own: forward derivatives compile parts of it with torch.jit.script, which is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODULES = {"LSTM": {}, "GRU": {}, "RNN": {}, "RNN relu": {"nonlinearity": "relu"}}
LENGTHS = [2, 4, 3]


def make_pair(cell, **options):
    """A module of torch.nn and ours with the same parameters, in float64."""
    torch.manual_seed(0)
    options = {"batch_first": True, "dtype": torch.float64} | MODULES[cell] | options
    theirs, ours = (getattr(kind, cell.split()[0])(3, 2, **options) for kind in (torch.nn, bridge))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def batch(seed=1):
    return torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(result):
    output, states = result
    output = output.data if isinstance(output, PackedSequence) else output
    return (output, *states) if isinstance(states, tuple) else (output, states)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def caller(module, form):
    """The results of a module as a function of its input and parameters, and these."""
    names = [name for name, _ in module.named_parameters()]
    plan = pack_padded_sequence(batch(), LENGTHS, batch_first=True, enforce_sorted=False)
    mask = None if form in ("whole", "packed") else torch.from_numpy(make_mask(form, 3, 4, seed=5))

    def call(x, *weights):
        given = PackedSequence(x, *plan[1:]) if form == "packed" else x
        keywords = {} if mask is None else {"mask": mask}
        return flat(torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (given,), keywords))

    x = plan.data if form == "packed" else batch()
    return call, [tensor.detach().clone().requires_grad_() for tensor in (x, *module.parameters())]


@pytest.mark.parametrize("form", ["whole", "packed", "left", "holes", "empty_row"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", MODULES)
def test_modules(cell, bidirectional, layers, form):
    _, ours = make_pair(cell, num_layers=layers, bidirectional=bidirectional)
    call, inputs = caller(ours, form)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", MODULES)
def test_without_bias_and_with_initial_states(cell, bias):
    _, ours = make_pair(cell, bias=bias)
    states = [torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2 if cell == "LSTM" else 1)]

    def call(x, *states):
        return flat(ours(x, states if len(states) > 1 else states[0], lengths=LENGTHS))

    assert torch.autograd.gradgradcheck(call, (batch().requires_grad_(), *states), fast_mode=True)


def function_of(problem, **more):
    """A function of the tensors of a problem, and these."""
    mask = None if problem.mask is None else torch.from_numpy(problem.mask)

    def call(x, kernel, recurrent_kernel, bias, *states):
        run = getattr(functional, problem.cell.function)
        sequence, finals = run(x, kernel, recurrent_kernel, bias, states, mask=mask, **problem.options | more)
        return finals if sequence is None else (sequence, *finals)

    arrays = [problem.x, problem.kernel, problem.recurrent_kernel, problem.bias, *problem.initial_state]
    return call, [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("mask", ["none", "holes", "all_empty"])
@pytest.mark.parametrize("cell", CELLS)
def test_functions(cell, mask, zeros, go_backwards):
    call, inputs = function_of(make_problem(cell, mask=mask), go_backwards=go_backwards, zero_output_for_mask=zeros)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ops.RECURRENT_ACTIVATIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_activations(cell, name):
    """Each one differentiated twice, and its first derivative that of the kernels."""
    both = {"activation": name} if cell == "simple_rnn" else {"activation": name, "recurrent_activation": name}
    call, inputs = function_of(make_problem(cell, size=0.7), return_sequences=False, **both)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    total = sum(y.square().sum() for y in call(*inputs))
    kernels = torch.autograd.grad(total, inputs, retain_graph=True)
    close(torch.autograd.grad(total, inputs, create_graph=True), kernels, 1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_one_tensor_in_two_places(cell):
    """Each place has a derivative of its own: here h is c, and the kernel is the recurrent kernel."""
    problem = make_problem(cell, features=2, units=2)
    function, (x, kernel, _, bias, state, *_) = function_of(problem)

    def call(x, kernel, bias, state):
        return function(x, kernel, kernel, bias, *(state,) * problem.cell.states)

    assert torch.autograd.gradgradcheck(call, (x, kernel, bias, state), fast_mode=True)


def penalty(module, x):
    """A loss with a gradient in it: of nothing that a gradient of the output's sum depends on by itself."""
    output = flat(module(x))[0]
    (dx,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    return output.square().sum() + (dx.square().sum((1, 2)) - 1).square().sum()


@pytest.mark.parametrize("cell", MODULES)
def test_gradient_penalty(cell):
    theirs, ours = make_pair(cell, num_layers=2)
    found = []
    for module in (theirs, ours):
        x = batch().requires_grad_()
        found.append(torch.autograd.grad(penalty(module, x), [x, *module.parameters()]))
    close(found[1], found[0])


def test_gradient_penalty_under_autocast():
    theirs, ours = (module.float() for module in make_pair("LSTM"))
    found = []
    for module, autocast in ((theirs, False), (ours, True)):
        x = batch().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = penalty(module, x)
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    close(found[1], found[0], 1e-4)


@pytest.mark.parametrize("cell", MODULES)
class TestAsTorchNN:
    """Functions of PyTorch that differentiate more than once, or otherwise than backwards."""

    def compare(self, cell, transform, tolerance=1e-10):
        theirs, ours = make_pair(cell, bidirectional=True)
        found = (transform(lambda x, module=module: flat(module(x))[0].square()) for module in (ours, theirs))
        close(*found, tolerance)

    def test_third_derivative(self, cell):
        def third(f):
            x = batch().requires_grad_()
            d = f(x).sum()
            for _ in range(3):
                weights = torch.arange(1, d.numel() + 1).view(d.shape)
                (d,) = torch.autograd.grad((d * weights).sum(), x, create_graph=True)
            return d.detach()

        self.compare(cell, third, 1e-6)

    @pytest.mark.parametrize("vectorize", [False, True])
    def test_hessian(self, cell, vectorize):
        hessian = torch.autograd.functional.hessian
        self.compare(cell, lambda f: hessian(lambda x: f(x).sum(), batch(), vectorize=vectorize))

    @pytest.mark.parametrize("vectorize", [False, True])
    def test_jacobian(self, cell, vectorize):
        self.compare(cell, lambda f: torch.autograd.functional.jacobian(f, batch(), vectorize=vectorize))

    def test_jvp(self, cell):
        self.compare(cell, lambda f: torch.autograd.functional.jvp(f, batch(), batch(2)))

    def test_hvp(self, cell):
        self.compare(cell, lambda f: torch.autograd.functional.hvp(lambda x: f(x).sum(), batch(), batch(2))[1])

    @pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
    def test_func_jacobian(self, cell, name):
        expected = torch.autograd.functional.jacobian
        theirs, ours = make_pair(cell)
        found = getattr(torch.func, name)(lambda x: flat(ours(x))[0])(batch())
        close(found, expected(lambda x: flat(theirs(x))[0], batch()))

    def test_func_hessian(self, cell):
        theirs, ours = make_pair(cell)
        found = torch.func.hessian(lambda x: flat(ours(x))[0].square().sum())(batch())
        close(found, torch.autograd.functional.hessian(lambda x: flat(theirs(x))[0].square().sum(), batch()))


@pytest.mark.parametrize("cell", MODULES)
class TestFunc:
    def test_gradient_of_parameters(self, cell):
        """The gradient of each sample, by a mask for all of them."""
        _, ours = make_pair(cell)
        mask = torch.tensor([True, False, True, True])

        def loss(parameters, x):
            return flat(torch.func.functional_call(ours, parameters, (x,), {"mask": mask}))[0].square().sum()

        parameters = {name: p.detach() for name, p in ours.named_parameters()}
        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch())
        for row, x in enumerate(batch()):
            expected = torch.autograd.grad(loss(dict(ours.named_parameters()), x), list(ours.parameters()))
            for gradient, a in zip(found.values(), expected, strict=True):
                close(gradient[row], a)

    @pytest.mark.parametrize("grad", [False, True])
    def test_vmap(self, cell, grad):
        _, ours = make_pair(cell, num_layers=2)
        x = torch.stack([batch(seed) for seed in range(3)])
        with torch.set_grad_enabled(grad):
            for keywords in ({}, {"lengths": LENGTHS}):
                found = torch.func.vmap(lambda x: flat(ours(x, **keywords)))(x)  # noqa: B023
                expected = [flat(ours(one, **keywords)) for one in x]
                close(found, tuple(torch.stack(results) for results in zip(*expected, strict=True)))

    def test_jvp_and_dual_level(self, cell):
        """A tangent, whether something records gradients or not; of the input, and of the weights alone."""
        _, ours = make_pair(cell)
        expected = torch.autograd.functional.jvp(lambda x: flat(ours(x))[0], batch(), batch(2))
        close(torch.func.jvp(lambda x: flat(ours(x))[0], (batch(),), (batch(2),)), expected)
        for module in (ours, ours.requires_grad_(False)):
            with forward_ad.dual_level():
                found = forward_ad.unpack_dual(flat(module(forward_ad.make_dual(batch(), batch(2))))[0])
                close((found.primal, found.tangent), expected)
        ours.requires_grad_()
        weight = ours.weight_hh_l0
        with forward_ad.dual_level():
            dual = {"weight_hh_l0": forward_ad.make_dual(weight, torch.ones_like(weight))}
            found = forward_ad.unpack_dual(flat(torch.func.functional_call(ours, dual, (batch(),)))[0]).tangent
            expected = torch.autograd.functional.jvp(
                lambda w: flat(torch.func.functional_call(ours, {"weight_hh_l0": w}, (batch(),)))[0],
                weight.detach(), torch.ones_like(weight),
            )[1]  # fmt: skip
        close(found, expected)

    def test_tangent_of_a_gradient(self, cell):
        """Forward over reverse, where only the gradient of the output has a tangent."""
        _, ours = make_pair(cell)
        x = batch().requires_grad_()
        y = flat(ours(x))[0]
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.zeros_like(y), torch.ones_like(y))
            found = forward_ad.unpack_dual(torch.autograd.grad(y, x, dual, retain_graph=True)[0]).tangent
        close(found, torch.autograd.grad(y.sum(), x)[0])

    def test_mask_of_what_is_differentiated(self, cell):
        _, ours = make_pair(cell)

        def loss(x):
            return flat(ours(x, mask=x[:, :, 0] > -0.5))[0].square().sum()

        x = batch().requires_grad_()
        close(torch.func.grad(loss)(batch()), torch.autograd.grad(loss(x), x)[0])

    @pytest.mark.parametrize("name", ["mask", "lengths"])
    def test_another_mask_for_each_sample(self, cell, name):
        _, ours = make_pair(cell)
        which = {"mask": batch()[None, :, :, 0] > 0, "lengths": torch.tensor([LENGTHS])}[name]
        with pytest.raises(RuntimeError, match=rf"{name}: expected values .* fastmask\.torch\.restore\(model\)"):
            torch.func.vmap(lambda x, given: ours(x, **{name: given}))(batch()[None], which)


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_infinite_weight_and_no_state(cell):
    """The state before the first step is not multiplied, as in the kernels."""
    problem = make_problem(cell, time=1, mask="none", initial_state=False)
    weights = [torch.from_numpy(problem.kernel), torch.full(problem.recurrent_kernel.shape, torch.inf).double()]

    def call(x):
        return getattr(functional, problem.cell.function)(x, *weights, **problem.options)[0]

    x = torch.from_numpy(problem.x)
    found = torch.func.vmap(call)(x[:, None])
    assert found.isfinite().all()
    close(found[:, 0], call(x))


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation: expected one of .*, got 'swish'"):
        torch.func.vmap(lambda x: functional.simple_rnn(x, torch.eye(3), torch.eye(3), activation="swish"))(
            torch.zeros(2, 1, 4, 3)
        )


class TestEmbedding:
    ids = torch.tensor([[3, 1, 3, 0], [7, 7, 1, 2]])

    def pair(self, **options):
        torch.manual_seed(0)
        theirs = torch.nn.Embedding(9, 3, dtype=torch.float64, **options)
        ours = bridge.Embedding(9, 3, dtype=torch.float64, **options)
        ours.load_state_dict(theirs.state_dict())
        return theirs, ours

    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("padding_idx", [None, 1])
    def test_second_derivative(self, sparse, padding_idx):
        found = []
        for module in self.pair(sparse=sparse, padding_idx=padding_idx):
            (d,) = torch.autograd.grad(module(self.ids).pow(3).sum(), module.weight, create_graph=True)
            values = (d.coalesce().values() if sparse else d).square().sum()
            (again,) = torch.autograd.grad(values, module.weight)
            found.append(again.to_dense())
        close(found[1], found[0])

    def test_rows_of_a_layer(self):
        """A gradient penalty on the table, through distinct rows and a mask."""
        found = []
        for embedding, layer in zip(self.pair(), make_pair("LSTM"), strict=True):
            keywords = {} if isinstance(layer, torch.nn.LSTM) else {"lengths": [4, 4]}
            output = layer(embedding(self.ids, **keywords))[0]
            (d,) = torch.autograd.grad(output.sum(), embedding.weight, create_graph=True)
            found.append(torch.autograd.grad(d.square().sum() + output.sum(), [embedding.weight, *layer.parameters()]))
        close(found[1], found[0])

    def test_func(self):
        theirs, ours = self.pair(padding_idx=1)
        weight = theirs.weight.detach()

        def loss(weight, module):
            return torch.func.functional_call(module, {"weight": weight}, (self.ids,)).pow(3).sum()

        for transform in (torch.func.grad, torch.func.jacfwd, torch.func.hessian):
            close(transform(loss)(weight, ours), transform(loss)(weight, theirs))
        assert torch.equal(torch.func.vmap(ours)(self.ids), theirs(self.ids))
        rows = torch.func.vmap(lambda ids: ours(ids[None], lengths=[3]).expand())(self.ids)
        close(rows[:, 0], theirs(self.ids) * (torch.arange(4) < 3)[:, None])
        with pytest.raises(IndexError):
            torch.func.vmap(ours)(self.ids + 7)

    def test_batched_gradients(self):
        assert torch.autograd.gradcheck(
            lambda w: torch.func.functional_call(self.pair()[1], {"weight": w}, (self.ids,)),
            (self.pair()[0].weight,), check_batched_grad=True,
        )  # fmt: skip


class TestRecordedPrograms:
    """What torch.export recorded differentiates as the module does."""

    @pytest.fixture
    def program(self):
        _, ours = make_pair("GRU", num_layers=2, bidirectional=True)
        return ours, torch.export.export(ours, (batch(),), {"lengths": torch.tensor(LENGTHS)}).module()

    def test_second_derivative(self, program):
        found = []
        for module in program:
            x = batch().requires_grad_()
            loss = penalty(lambda x, module=module: module(x, lengths=torch.tensor(LENGTHS)), x)
            found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
        close(found[1], found[0])

    @pytest.mark.parametrize("grad", [False, True])
    def test_no_tangent_is_dropped(self, program, grad):
        with (
            forward_ad.dual_level(), torch.set_grad_enabled(grad),
            pytest.raises(RuntimeError, match=r"forward_ad: .* fastmask\.torch\.restore\(model\)"),
        ):  # fmt: skip
            program[1](forward_ad.make_dual(batch(), batch(2)), lengths=torch.tensor(LENGTHS))


@pytest.mark.filterwarnings("ignore")
def test_transforms_under_the_compiler():
    """The compiler leaves transforms to PyTorch, and compiled backward passes to the kernels."""
    torch._dynamo.reset()
    _, ours = make_pair("LSTM")

    def gradient(x):
        return torch.func.grad(lambda x: flat(ours(x))[0].square().sum())(x)

    close(torch.compile(gradient, backend="aot_eager")(batch()), gradient(batch()))
    mapped = torch.compile(torch.func.vmap(lambda x: ours(x)[0]), backend="aot_eager")
    close(mapped(batch()), ours(batch())[0])
    x = batch().requires_grad_()
    y = ours(x)[0].square().sum()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: y.backward(), backend="aot_eager")()
    close(x.grad, gradient(batch()))
    torch._dynamo.reset()
