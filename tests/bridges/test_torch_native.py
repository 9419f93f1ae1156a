"""What the kernels do not take runs on PyTorch's own, under the same forms of input; and PyTorch's errors stay."""

import copy

import pytest
from helpers.masks import MASKED_KINDS, make_mask

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

CELLS = ("LSTM", "GRU", "RNN")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


def make_pair(cell="LSTM", dtype=torch.float64, **keywords):
    """The module of torch.nn and ours with the same parameters."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, cell)(3, 5, 2, bidirectional=True, dtype=dtype, **keywords)
    ours = getattr(bridge, cell)(3, 5, 2, bidirectional=True, dtype=dtype, **keywords)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def states(module, *batch):
    torch.manual_seed(2)
    h = torch.randn(4, *batch, module.proj_size or 5).to(module.weight_hh_l0.dtype)
    return (h, torch.randn(4, *batch, 5).to(h.dtype)) if module.mode == "LSTM" else h


def flat(result):
    output, finals = result
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(finals if isinstance(finals, tuple) else (finals,))]


def row_of(hx, row):
    return tuple(state[:, row] for state in hx) if isinstance(hx, tuple) else hx[:, row]


KINDS = [("LSTM", {"proj_size": 2}), *((cell, {"dtype": torch.bfloat16}) for cell in CELLS)]


@pytest.mark.parametrize("mask", MASKED_KINDS)
@pytest.mark.parametrize(("cell", "keywords"), KINDS)
def test_any_mask_equals_each_row_alone(cell, keywords, mask):
    theirs, ours = make_pair(cell, batch_first=True, **keywords)
    x = torch.randn(5, 6, 3).to(ours.weight_hh_l0.dtype)
    valid = torch.from_numpy(make_mask(mask, 5, 6, seed=4))
    x[~valid] = torch.nan
    hx = states(ours, 5)
    output, *finals = flat(ours(x, hx, mask=valid))
    assert (output[~valid] == 0).all()
    for row, steps in enumerate(valid):
        start = row_of(hx, row)
        alone = flat(theirs(x[row][steps], start) if steps.any() else (output[row][steps], start))
        for a, b in zip((output[row][steps], *(final[:, row] for final in finals)), alone, strict=True):
            torch.testing.assert_close(a, b)
    zeros = tuple(map(torch.zeros_like, hx)) if cell == "LSTM" else torch.zeros_like(hx)
    torch.testing.assert_close(flat(ours(x, mask=valid)), flat(ours(x, zeros, mask=valid)))


def test_forms_of_input_with_projections():
    theirs, ours = make_pair(proj_size=2)
    assert repr(ours) == repr(theirs)
    x, lengths = torch.randn(6, 4, 3, dtype=torch.float64), torch.tensor([6, 4, 4, 1])
    packed = pack_padded_sequence(x, lengths)
    valid = torch.arange(6)[:, None] < lengths
    hx = states(ours, 4)
    for given, more in ((x, {}), (packed, {}), (x[:, 0], {}), (x, {"lengths": lengths}), (x, {"mask": valid})):
        start = row_of(hx, 0) if given.data.dim() == 2 and given is not packed else hx
        found = flat(ours(given, start, **more))
        expected = flat(theirs(packed if more else given, start))
        if more:
            found[0] = pack_padded_sequence(found[0], lengths).data
        torch.testing.assert_close(found, expected)
    alone = ours(x[:, 0], mask=valid[:, 3])
    torch.testing.assert_close(flat(alone)[1:], flat(theirs(x[:1, 0]))[1:])


def test_embedded_input_with_projections():
    theirs, ours = make_pair(proj_size=2, dtype=torch.float32, batch_first=True)
    embedding = bridge.Embedding(7, 3)
    ids, lengths = torch.tensor([[1, 2, 1], [3, 0, 0]]), torch.tensor([3, 1])
    packed = pack_padded_sequence(embedding.weight[ids], lengths, batch_first=True)
    expected = flat(theirs(packed))
    found = flat(ours(embedding(ids, lengths=lengths)))
    found[0] = pack_padded_sequence(found[0], lengths, batch_first=True).data
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(flat(ours(embedding(pack_padded_sequence(ids, lengths, batch_first=True)))), expected)


def test_gradients_with_projections():
    theirs, ours = make_pair(proj_size=2)
    x, lengths = torch.randn(6, 3, 3, dtype=torch.float64), torch.tensor([6, 4, 1])
    results = []
    for module, given in ((theirs, pack_padded_sequence(x, lengths)), (ours, x)):
        output, *finals = flat(module(given, **({} if module is theirs else {"lengths": lengths})))
        loss = output.square().sum() + sum(final.square().sum() for final in finals)
        first = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), list(module.parameters()))
        results.append((first, second))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_after_acceleration(cell, dtype):
    model = torch.nn.Sequential(getattr(torch.nn, cell)(3, 5))
    twin = copy.deepcopy(model)
    bridge.accelerate(model)
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(model.to(dtype)(x.to(dtype)), twin.to(dtype)(x.to(dtype)))
    # And back again, on the kernels.
    torch.testing.assert_close(model.float()(x), twin.float()(x))


BAD = {
    "features": lambda module, x, hx: module(torch.randn(6, 2, 7), hx),
    "dimensions": lambda module, x, hx: module(x[None], hx),
    "one dimension": lambda module, x, hx: module(x[0, 0], hx),
    "double": lambda module, x, hx: module(x.double(), hx),
    "half": lambda module, x, hx: module(x.half(), hx),
    "integers": lambda module, x, hx: module(x.long(), hx),
    "meta": lambda module, x, hx: module(x.to("meta")),
    "sparse": lambda module, x, hx: module(x.to_sparse()),
    "packed features": lambda module, x, hx: module(pack_padded_sequence(torch.randn(6, 2, 7), [6, 2])),
    "size of states": lambda module, x, hx: module(x, states(module, 3)),
    "dimensions of states": lambda module, x, hx: module(x, states(module)),
    "states of a batch": lambda module, x, hx: module(x[:, 0], hx),
    "double states": lambda module, x, hx: module(
        x, tuple(s.double() for s in hx) if isinstance(hx, tuple) else hx.double()
    ),
    "one state of an LSTM, or two": lambda module, x, hx: module(x, hx[0] if isinstance(hx, tuple) else (hx, hx)),
    "no units": lambda module, x, hx: type(module)(3, 0),
    "no features": lambda module, x, hx: type(module)(0, 3),
    "dropout": lambda module, x, hx: type(module)(3, 4, dropout=2.0),
    "unknown keyword": lambda module, x, hx: type(module)(3, 4, size=2),
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
@pytest.mark.parametrize("cell", CELLS)
def test_errors_are_those_of_torch(cell, call):
    theirs, ours = make_pair(cell, dtype=torch.float32)
    x, hx = torch.randn(6, 2, 3), states(ours, 2)
    accelerated = copy.deepcopy(theirs)
    bridge.accelerate(accelerated)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(theirs, x, hx)
    for module in (ours, accelerated):
        with pytest.raises(expected.type):
            call(module, x, hx)


@pytest.mark.parametrize("shapes", [((6, 2, 7), (4, 2, 5)), ((6, 2, 3, 1), (4, 2, 5)), ((3,), (4, 5)),
                                    ((6, 2, 3), (4, 3, 5)), ((6, 2, 3), (4, 5)), ((6, 3), (4, 1, 5))], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_errors_of_masked_calls_are_those_of_torch(cell, shapes):
    theirs, ours = make_pair(cell, dtype=torch.float32)
    x, h = map(torch.zeros, shapes)
    hx = (h, h) if cell == "LSTM" else h
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(x, hx)
    for more in ({"lengths": [6, 2][: x.dim() - 1]}, {"mask": torch.ones(x.shape[:-1], dtype=torch.bool)}):
        with pytest.raises(expected.type):
            ours(x, hx, **more)


@pytest.mark.parametrize("cell", CELLS)
def test_lazily_negated_tensors(cell):
    """``x.conj().imag`` is a negative of its memory that nobody has computed yet."""
    theirs, ours = make_pair(cell)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    results = []
    for module in (theirs, ours):
        values = torch.complex(x, -x).requires_grad_()
        given = values.conj().imag
        assert given.is_neg()
        output, *_ = flat(module(given))
        cotangent = torch._neg_view(output.detach())
        with torch.no_grad():
            alone = flat(module(torch._neg_view(x[:1])))
        results.append((output, torch.autograd.grad(output, [values, *module.parameters()], cotangent), alone))
    torch.testing.assert_close(*results)
