"""Subclasses of torch.nn's recurrent modules stay what they are while they run on the kernels."""

import copy
import io
import pickle
from abc import ABC, abstractmethod

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

from fastmask.ops.rnn import RNNProgram  # noqa: E402


class WithStates(nn.LSTM):
    """More methods, and ``forward`` of torch.nn."""

    def zeros(self, x):
        return (x.new_zeros(self.num_layers, x.shape[1], self.hidden_size),) * 2

    # Names that a class of fastmask might have as well.
    def _weights(self):
        return "mine"

    _cell = _check = _packed = original = _run_layers = "mine"


class AllowsEmptyRows(ABC, nn.RNNBase):
    """A mixin that wraps ``forward`` of whatever comes behind it."""

    @abstractmethod
    def first(self, hx):
        pass

    def forward(self, x, hx=None, lengths=None):
        if lengths is None:
            return super().forward(x, hx=hx)
        packed = pack_padded_sequence(x, lengths.clamp(min=1), enforce_sorted=False)
        output, finals = super().forward(packed, hx)
        return pad_packed_sequence(output)[0], finals


class FlexibleLSTM(AllowsEmptyRows, nn.LSTM):
    def first(self, hx):
        return hx[0]


class FlexibleGRU(AllowsEmptyRows, nn.GRU):
    def first(self, hx):
        return hx


class OldSuper(nn.RNN):
    def forward(self, *arguments, **keywords):
        return super(OldSuper, self).forward(*arguments, **keywords)  # noqa: UP008


SUBCLASSES = (WithStates, FlexibleLSTM, FlexibleGRU, OldSuper)


class Decoder(nn.Module):
    """What it does depends on the class of its layer."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 4)

    def forward(self, x, state):
        return self.rnn(x, state[0] if isinstance(self.rnn, (nn.GRU, nn.RNN)) else state)


@pytest.fixture
def runs(monkeypatch):
    """Runs of the kernels that are recorded, in a list."""
    seen = []
    vjp = RNNProgram.vjp

    def spy(program, *arguments, **options):
        seen.append(program)
        return vjp(program, *arguments, **options)

    monkeypatch.setattr(RNNProgram, "vjp", spy)
    return seen


def results(module, *arguments, **keywords):
    output, finals = module(*arguments, **keywords)
    finals = finals if isinstance(finals, tuple) else (finals,)
    loss = output.square().sum() + sum(final.sum() for final in finals)
    return [output, *finals, *torch.autograd.grad(loss, list(module.parameters()))]


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_results_class_and_methods(kind, runs):
    torch.manual_seed(0)
    layer = kind(3, 4, 2).double()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    calls = [{}, {"lengths": torch.tensor([0, 5])}] if issubclass(kind, AllowsEmptyRows) else [{}]
    expected = [results(layer, x, **keywords) for keywords in calls]
    shown = repr(layer)
    assert not runs
    report = bridge.accelerate(layer)
    assert [name for name, _ in report.swapped] == [""]
    assert f"{kind.__name__} -> fastmask.torch." in report.swapped[0][1]
    torch.testing.assert_close([results(layer, x, **keywords) for keywords in calls], expected)
    assert len(runs) == 2 * len(calls)
    assert isinstance(layer, kind)
    assert repr(layer) == shown
    if kind is WithStates:
        torch.testing.assert_close(results(layer, x, layer.zeros(x)), expected[0])
        assert layer._weights() == layer._cell == "mine"
    if kind is FlexibleGRU:
        assert layer.first(3) == 3
    other = kind(3, 4)
    bridge.accelerate(other)
    assert type(other) is type(layer)
    bridge.restore(layer)
    assert type(layer) is kind


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, *SUBCLASSES])
def test_dispatch_on_the_class(kind, runs):
    torch.manual_seed(0)
    model = Decoder(kind)
    x, state = torch.randn(6, 2, 3), (torch.randn(1, 2, 4),) * 2
    expected = results(model, x, state)
    bridge.accelerate(model)
    torch.testing.assert_close(results(model, x, state), expected)
    assert len(runs) == 1


def saved(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("kind", [nn.GRU, *SUBCLASSES])
def test_copies_pickles_and_state_dicts(kind):
    layer = kind(3, 4)
    keys = list(layer.state_dict())
    bridge.accelerate(layer)
    assert list(layer.state_dict()) == keys
    x = torch.randn(6, 2, 3)
    copies = [copy.copy(layer), copy.deepcopy(layer), saved(layer)]
    copies += [pickle.loads(pickle.dumps(layer, protocol)) for protocol in range(6)]
    for other in copies:
        assert type(other) is type(layer)
        assert isinstance(other, kind)
        torch.testing.assert_close(results(other, x), results(layer, x))
        bridge.restore(other)
        assert type(other) is kind
        other.load_state_dict(layer.state_dict())


class Otherwise(nn.GRU):
    def forward(self, x, hx=None):
        return nn.GRU.forward(self, x, hx)


class Permuting(nn.GRU):
    def permute_hidden(self, hx, permutation):
        return hx


class Final(nn.GRU):
    def __init_subclass__(cls):
        raise TypeError("no subclasses, please")


def with_own_forward():
    layer = nn.GRU(3, 4)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Otherwise(3, 4), "is Otherwise, whose forward does not call super().forward"),
        (lambda: Permuting(3, 4), "is Permuting, with a permute_hidden of its own"),
        (lambda: Final(3, 4), "is Final, of which no class can be derived: no subclasses, please"),
        (with_own_forward, "has a forward of its own"),
    ],
)
def test_what_the_swap_cannot_keep_is_left_and_named(make, reason):
    layer = make()
    kind = type(layer)
    assert bridge.accelerate(layer).left == [("", reason)]
    assert type(layer) is kind
