"""fastmask.torch under torch.compile(fullgraph=True): the same numbers, and no tape outlives its graph."""

import gc

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

from fastmask.torch import _library, functional  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
BACKENDS = ["aot_eager", "inductor"]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


class Tagger(torch.nn.Module):
    """Ids to a score of each row and of each step."""

    def __init__(self, cell):
        super().__init__()
        self.embedding = bridge.Embedding(50, 6, padding_idx=0)
        self.layers = getattr(bridge, cell)(6, 5, 2, bidirectional=True, batch_first=True, dropout=0.5)
        self.dense = torch.nn.Linear(10, 3)

    def forward(self, ids):
        output, states = self.layers(self.embedding(ids, mask=ids != 0))
        last = states[0] if isinstance(states, tuple) else states
        return self.dense(output.relu()), last.sum(0)


def gradients(results, module):
    return torch.autograd.grad(sum(y.square().sum() for y in results), list(module.parameters()))


def check_same(compiled, eager, module):
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(gradients(compiled, module), gradients(eager, module))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_model(cell, backend):
    model = Tagger(cell).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for batch, steps in ((4, 7), (3, 9), (6, 8)):
        ids = torch.randint(0, 50, (batch, steps))
        ids[0, :4] = ids[1] = 0
        check_same(compiled(ids), model(ids), model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids), model(ids))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(ids), model(ids))
    model.train()
    first, second = compiled(ids), compiled(ids)
    assert not torch.equal(first[0], second[0])


def test_accelerated_models_compile_as_those_of_torch_nn():
    """The graph breaks there, or PyTorch is told to go on."""
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    bridge.accelerate(model)
    x = torch.randn(6, 2, 3)
    expected = model(x)[0]
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x)[0], expected)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x)[0], expected)


def inputs(kind):
    x = torch.randn(4, 6, 3)
    if kind == "packed":
        return (pack_padded_sequence(x, [6, 3, 1, 5], batch_first=True, enforce_sorted=False),), {}
    if kind == "sorted":
        return (pack_padded_sequence(x, [6, 5, 3, 1], batch_first=True),), {}
    x = x.requires_grad_()
    return (x,), {} if kind == "whole" else {"lengths": torch.tensor([6, 3, 0, 5])}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["packed", "sorted", "whole", "lengths"])
def test_forms_of_input(kind, batch_first):
    module = bridge.LSTM(3, 4, bidirectional=True, batch_first=batch_first)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    arguments, keywords = inputs(kind)
    if kind in ("whole", "lengths") and not batch_first:
        arguments = (arguments[0].transpose(0, 1),)
    results = []
    for function in (compiled, module):
        output, states = function(*arguments, **keywords)
        results.append((output.data if isinstance(output, PackedSequence) else output, *states))
    check_same(*results, module)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn"])
def test_functional(name, go_backwards, zeros):
    gates = {"lstm": 4, "gru": 3, "simple_rnn": 1}[name]
    mask = torch.rand(4, 6) < 0.6
    states = [torch.randn(4, 5, requires_grad=True) for _ in range(2 if name == "lstm" else 1)]
    bias = torch.randn(2, 5 * gates) if name == "gru" else torch.randn(5 * gates)
    given = [torch.randn(4, 6, 3), torch.randn(3, 5 * gates), torch.randn(5, 5 * gates), bias]
    given = [tensor.requires_grad_() for tensor in given] + states

    def call(x, kernel, recurrent_kernel, bias, *states):
        sequence, finals = getattr(functional, name)(
            x, kernel, recurrent_kernel, bias, states, mask=mask, go_backwards=go_backwards,
            zero_output_for_mask=zeros,
        )
        return sequence, *finals

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = compiled(*given), call(*given)
    torch.testing.assert_close(*results)
    found = [torch.autograd.grad(sum(y.square().sum() for y in ys), given) for ys in results]
    torch.testing.assert_close(*found)


def test_input_that_the_graph_changes():
    """The layer's input is overwritten behind it: an error, as without the compiler, and never other numbers."""
    module = bridge.LSTM(3, 4)

    def call(x):
        y = module(x)[0].square().sum()
        x.mul_(0)
        return y

    x = torch.randn(5, 2, 3)
    for function in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            function(x.clone()).backward()


def test_backward_twice():
    module = bridge.GRU(3, 4)
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(torch.randn(5, 2, 3))[0].square().sum()
    first = torch.autograd.grad(y, list(module.parameters()), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, list(module.parameters())), first, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tapes_go_with_their_graph(backend):
    module = bridge.LSTM(3, 4, 2)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    x = torch.randn(5, 2, 3)
    gc.collect()
    before = len(_library._tapes)
    output = compiled(x)[0]
    assert len(_library._tapes) == before + 2
    del output
    assert len(_library._tapes) == before
    compiled(x)[0].sum().backward()
    assert len(_library._tapes) == before
    with torch.no_grad():
        compiled(x)
    assert len(_library._tapes) == before


def test_operators():
    """PyTorch's own checks of operators: schema, fake results, autograd registration."""
    mask = torch.rand(3, 5) < 0.6
    sizes, order, positions, cells, _, _ = _library.plan(mask, False, False)
    values = torch.randn(int(mask.sum()), 3, requires_grad=True)
    weights = [torch.randn(8, 3), torch.randn(8, 2), torch.randn(8), torch.randn(8)]
    weights = [weight.requires_grad_() for weight in weights]
    spec = ("lstm", "torch", "tanh", "sigmoid", True, False, True)
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    cases = [
        (_library.plan, (mask, True, True)),
        (_library.take, (values, positions[: len(values)].argsort(), None)),
        (_library.reverse, (values, sizes)),
        (_library.recurrent, (values, *weights, None, None, None, sizes, order, False, *spec)),
        (_library.distinct, (torch.tensor([3, 1, 3]), 5)),
    ]
    for operator, arguments in cases:
        torch.library.opcheck(operator, arguments, test_utils=utilities)
    assert cells.shape == (15,)
