"""fastmask.torch's LSTM, GRU and RNN against those of torch.nn."""

import copy
import pickle

import numpy as np
import pytest
from helpers.masks import MASKED_KINDS, make_mask

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

from fastmask.ops.rnn import RNNProgram  # noqa: E402
from fastmask.torch import _eager  # noqa: E402

CELLS = ("LSTM", "GRU", "RNN", "RNN relu")
LENGTHS = [3, 6, 1, 6, 2]
TOLERANCE = {torch.float64: {"rtol": 0, "atol": 1e-12}, torch.float32: {"rtol": 0, "atol": 2e-5}}


def make_pair(cell, *arguments, dtype=torch.float64, seed=0, **keywords):
    """The module of torch.nn and ours with the same parameters."""
    name, *relu = cell.split()
    if relu:
        keywords["nonlinearity"] = "relu"
    torch.manual_seed(seed)
    theirs = getattr(torch.nn, name)(*arguments, dtype=dtype, **keywords)
    ours = getattr(bridge, name)(*arguments, dtype=dtype, **keywords)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def padded(dtype=torch.float64, features=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LENGTHS), max(LENGTHS), features, dtype=dtype, generator=generator)


def packed(x, enforce_sorted=False):
    lengths = sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS
    return pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=enforce_sorted)


def initial_states(module, batch, seed=2):
    generator = torch.Generator().manual_seed(seed)
    runs = module.num_layers * (2 if module.bidirectional else 1)
    h, c = (torch.randn(runs, batch, module.hidden_size, dtype=module.weight_ih_l0.dtype, generator=generator)
            for _ in range(2))
    return (h, c) if module.mode == "LSTM" else h


def flat(result):
    """Output data and states in one tuple."""
    output, states = result
    output = output.data if isinstance(output, PackedSequence) else output
    return (output, *states) if isinstance(states, tuple) else (output, states)


def check_equal(ours, theirs):
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE[b.dtype])


def check_gradients(ours, theirs, our_inputs, their_inputs):
    """The gradients of a random function of all results."""
    generator = torch.Generator().manual_seed(3)
    cotangents = [torch.randn(y.shape, dtype=y.dtype, generator=generator) for y in flat(theirs)]
    actual = torch.autograd.grad(flat(ours), our_inputs, cotangents)
    expected = torch.autograd.grad(flat(theirs), their_inputs, cotangents)
    for a, b in zip(actual, expected, strict=True):
        tolerance = TOLERANCE[b.dtype]["atol"] * max(1, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
class TestPackedInput:
    @pytest.mark.parametrize("enforce_sorted", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_results_and_gradients(self, cell, layers, bidirectional, bias, enforce_sorted, dtype):
        theirs, ours = make_pair(cell, 3, 4, layers, bias=bias, bidirectional=bidirectional, dtype=dtype)
        inputs = []
        results = []
        for module in (theirs, ours):
            x = padded(dtype).requires_grad_()
            sequence = packed(x, enforce_sorted)
            states = initial_states(module, len(LENGTHS))
            leaves = [s.requires_grad_() for s in (states if isinstance(states, tuple) else (states,))]
            results.append(module(sequence, states))
            inputs.append([x, *leaves, *module.parameters()])
        check_equal(results[1], results[0])
        for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(results[1][0], name), getattr(results[0][0], name)
            assert (a is None and b is None) or torch.equal(a, b)
        check_gradients(results[1], results[0], inputs[1], inputs[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
class TestPaddedInput:
    def options(self, bidirectional, batch_first):
        return {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}

    def test_without_mask(self, cell, bidirectional, batch_first):
        theirs, ours = make_pair(cell, 3, 4, **self.options(bidirectional, batch_first))
        results, inputs = [], []
        for module in (theirs, ours):
            x = padded().requires_grad_()
            results.append(module(x if batch_first else x.transpose(0, 1)))
            inputs.append([x, *module.parameters()])
        check_equal(results[1], results[0])
        check_gradients(results[1], results[0], inputs[1], inputs[0])

    @pytest.mark.parametrize("by", ["tensor", "list", "mask"])
    def test_lengths(self, cell, bidirectional, batch_first, by):
        theirs, ours = make_pair(cell, 3, 4, **self.options(bidirectional, batch_first))
        x, their_x = padded().requires_grad_(), padded().requires_grad_()
        mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        what = {
            "tensor": {"lengths": torch.tensor(LENGTHS)},
            "list": {"lengths": LENGTHS},
            "mask": {"mask": mask if batch_first else mask.t()},
        }[by]
        spoilt = torch.where(mask[:, :, None], x, torch.nan)
        actual = ours(spoilt if batch_first else spoilt.transpose(0, 1), **what)
        sequence, states = theirs(packed(their_x))
        expected = pad_packed_sequence(sequence, batch_first=batch_first)[0], states
        check_equal(actual, expected)
        check_gradients(actual, expected, [x, *ours.parameters()], [their_x, *theirs.parameters()])

    def test_one_sequence(self, cell, bidirectional, batch_first):
        theirs, ours = make_pair(cell, 3, 4, **self.options(bidirectional, batch_first))
        x = padded()[0]
        states = initial_states(ours, 1)
        states = tuple(s[:, 0] for s in states) if isinstance(states, tuple) else states[:, 0]
        check_equal(ours(x), theirs(x))
        check_equal(ours(x, states), theirs(x, states))
        kept = torch.tensor([True, False, True, True, False, True])
        check_equal((ours(x, mask=kept)[0][kept], ours(x, mask=kept)[1]), theirs(x[kept]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", MASKED_KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_any_mask_equals_each_row_alone(cell, kind, bidirectional):
    theirs, ours = make_pair(cell, 3, 4, 2, bidirectional=bidirectional, batch_first=True)
    x = padded()
    mask = torch.from_numpy(make_mask(kind, *x.shape[:2], seed=4))
    states = initial_states(ours, len(x))
    output, *finals = flat(ours(x, states, mask=mask))
    assert (output[~mask] == 0).all()
    for row, valid in enumerate(mask):
        start = [s[:, row] for s in (states if isinstance(states, tuple) else (states,))]
        if valid.any():
            alone = flat(theirs(x[row][valid], tuple(start) if len(start) > 1 else start[0]))
        else:
            alone = (output[row][valid], *start)
        for a, b in zip((output[row][valid], *(final[:, row] for final in finals)), alone, strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("cell", CELLS)
class TestModule:
    def test_gradcheck(self, cell):
        _, ours = make_pair(cell, 3, 2, 2, bidirectional=True, batch_first=True)
        mask = torch.from_numpy(make_mask("empty_row", 3, 4, seed=5))
        names = [name for name, _ in ours.named_parameters()]

        def call(x, *weights):
            return flat(torch.func.functional_call(ours, dict(zip(names, weights, strict=True)), (x,), {"mask": mask}))

        x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
        weights = [p.detach().clone().requires_grad_() for p in ours.parameters()]
        assert torch.autograd.gradcheck(call, (x, *weights), fast_mode=True)

    def test_same_initialisation(self, cell):
        name, *relu = cell.split()
        more = {"nonlinearity": "relu"} if relu else {}
        made = []
        for module in (getattr(torch.nn, name), getattr(bridge, name)):
            torch.manual_seed(6)
            made.append(module(3, 4, 2, bidirectional=True, **more))
        theirs, ours = made
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        assert repr(ours) == repr(theirs)
        assert ours.mode == theirs.mode

    def test_dropout_between_layers(self, cell):
        """PyTorch's random numbers: the same seed drops the same outputs as in torch.nn on packed input."""
        theirs, ours = make_pair(cell, 3, 4, 3, dropout=0.5, bidirectional=True)
        results = []
        for module in (theirs, ours):
            torch.manual_seed(7)
            results.append(module(packed(padded())))
        check_equal(results[1], results[0])
        assert not torch.equal(ours(packed(padded()))[0].data, results[1][0].data)
        ours.eval(), theirs.eval()
        check_equal(ours(packed(padded())), theirs(packed(padded())))

    def test_copies(self, cell):
        _, ours = make_pair(cell, 3, 4, 2)
        expected = ours(packed(padded()))
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            check_equal(other(packed(padded())), expected)
            assert other.weight_ih_l0.data_ptr() != ours.weight_ih_l0.data_ptr()

    def test_rows_without_a_step_give_zero_gradients(self, cell):
        _, ours = make_pair(cell, 3, 4, 2, bidirectional=True, batch_first=True)
        output, *states = flat(ours(padded(), mask=torch.zeros(5, 6, dtype=torch.bool)))
        (output.sum() + sum(s.sum() for s in states)).backward()
        for parameter in ours.parameters():
            assert parameter.grad.shape == parameter.shape
            assert not parameter.grad.any()

    def test_optimizer_steps(self, cell):
        """Ten steps of Adam are those of torch.nn."""
        losses = []
        for module in make_pair(cell, 3, 4, 2, bidirectional=True):
            optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
            for _ in range(10):
                optimizer.zero_grad()
                loss = module(packed(padded()))[0].data.square().mean()
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], abs=1e-10)

    def test_autocast_widens(self, cell):
        _, ours = make_pair(cell, 3, 4, dtype=torch.float32, batch_first=True)
        half = padded(torch.bfloat16)
        with pytest.raises(ValueError, match=r"RNN input dtype \(torch.bfloat16\) does not match"):
            ours(half)
        expected = ours(half.float(), lengths=LENGTHS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            check_equal(ours(half, lengths=LENGTHS), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_packed_data_is_exchanged_without_a_copy(cell, monkeypatch):
    _, ours = make_pair(cell, 3, 4)
    seen = []

    def spy(function):
        def call(program, tokens, *arguments, **options):
            result = function(program, tokens, *arguments, **options)
            written = result[0][0] if isinstance(result[0], tuple) else result[0]
            seen.append((tokens, written))
            return result

        return call

    def refuse(*arguments):
        raise AssertionError("rows were gathered")

    for function in ("run", "vjp"):
        monkeypatch.setattr(RNNProgram, function, spy(getattr(RNNProgram, function)))
    monkeypatch.setattr(_eager, "take", refuse)
    sequence = packed(padded())
    for grad in (torch.enable_grad, torch.no_grad):
        with grad():
            output, _ = ours(sequence)
        tokens, written = seen.pop()
        assert tokens.values.ctypes.data == sequence.data.data_ptr()
        assert np.shares_memory(tokens.plan.batch_sizes, sequence.batch_sizes.numpy())
        assert np.shares_memory(tokens.plan.sorted_indices, sequence.sorted_indices.numpy())
        assert written.ctypes.data == output.data.data_ptr()
        assert output.sorted_indices is sequence.sorted_indices


class TestErrors:
    module = bridge.LSTM(3, 4, batch_first=True)

    @pytest.mark.parametrize("cell", ["GRU", "RNN"])
    def test_projections(self, cell):
        with pytest.raises(ValueError, match=r"proj_size argument is only supported for LSTM"):
            getattr(bridge, cell)(3, 4, proj_size=2)

    def test_nonlinearity(self):
        with pytest.raises(ValueError, match="Unknown nonlinearity 'sigmoid': expected 'tanh' or 'relu'"):
            bridge.RNN(3, 4, nonlinearity="sigmoid")

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error", "words"),
        [
            ((np.zeros((2, 5, 3)),), {}, TypeError, "input: expected a tensor, PackedSequence"),
            ((torch.zeros(2, 5, 3),), {"mask": torch.ones(5, 2, dtype=torch.bool)}, ValueError, r"mask: .*\(2, 5\)"),
            ((torch.zeros(2, 5, 3),), {"lengths": [5]}, ValueError, r"lengths: expected shape \(2,\)"),
            ((torch.zeros(2, 5, 3),), {"lengths": [5, 6]}, ValueError, "lengths: expected values from 0 to 5"),
            ((torch.zeros(2, 5, 3),), {"lengths": [5.0, 4.0]}, TypeError, "lengths: expected integers"),
            (
                (torch.zeros(2, 5, 3),), {"lengths": [5, 2], "mask": torch.ones(2, 5, dtype=torch.bool)},
                ValueError, "expected one of them, got both",
            ),
            ((packed(padded(torch.float32)),), {"lengths": [5, 2]}, ValueError, "expected neither with packed input"),
        ],
    )  # fmt: skip
    def test_bad_call(self, arguments, keywords, error, words):
        with pytest.raises(error, match=words):
            self.module(*arguments, **keywords)

    def test_broken_packed_sequence(self):
        good = packed(padded(torch.float32))
        for sizes in ([1, 2, 1], [5, 5], [0], [5, -1]):
            with pytest.raises(ValueError, match=r"batch_sizes|sorted_indices|values"):
                self.module(PackedSequence(good.data, torch.tensor(sizes), good.sorted_indices))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_results_share_no_memory_with_states(cell, bidirectional, given, training):
    """Whoever changes one of them in place changes no other, nor what was passed in."""
    for layers, (batch, time) in ((1, (1, 1)), (2, (5, 6))):
        _, module = make_pair(cell, 3, 4, num_layers=layers, bidirectional=bidirectional, batch_first=True)
        hx = initial_states(module, batch) if given else None
        x = torch.randn(batch, time, 3, dtype=torch.float64)
        with torch.set_grad_enabled(training):
            arrays = [*flat(module(x, hx)), x, *(hx if isinstance(hx, tuple) else (hx,) if given else ())]
        places = [array.untyped_storage().data_ptr() for array in arrays]
        assert len(set(places)) == len(places)
