"""accelerate and restore: the same modules, parameters and results."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402


class Classifier(torch.nn.Module):
    """A model as people have it: nested, with packing of its own."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 5)
        self.encoder = torch.nn.ModuleDict({
            "first": torch.nn.LSTM(5, 4, 2, bidirectional=True, batch_first=True),
            "second": torch.nn.GRU(8, 3, batch_first=True),
        })
        self.shared = self.encoder["second"]
        self.last = torch.nn.Sequential(torch.nn.RNN(3, 2, nonlinearity="relu"))
        self.dense = torch.nn.Linear(2, 2)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        packed = self.shared(self.encoder["first"](packed)[0])[0]
        output, _ = pad_packed_sequence(packed)
        return self.dense(self.last(output)[0].sum(0))


NAMES = ["encoder.first", "encoder.second", "last.0"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier().double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randint(0, 30, (6, 9)), torch.tensor([3, 9, 1, 5, 2, 7])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def train(model, optimizer, batch, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(*batch).square().mean()
        loss.backward()
        optimizer.step()
    return loss.detach()


def test_results_and_report(model, batch):
    before = model(*batch)
    report = bridge.accelerate(model)
    assert report.swapped == [
        (name, f"torch.nn.{kind} -> fastmask.torch.{kind}")
        for name, kind in zip(NAMES, ("LSTM", "GRU", "RNN"), strict=True)
    ]
    assert report.left == []
    assert isinstance(model.encoder["first"], bridge.LSTM)
    assert isinstance(model.encoder["first"], torch.nn.LSTM)
    assert model.shared is model.encoder["second"]
    close(model(*batch), before)
    lines = str(report).splitlines()
    assert lines[0] == "3 swapped, 0 left"
    assert "encoder.second: torch.nn.GRU -> fastmask.torch.GRU" in lines[2]


def test_restore(model, batch):
    kinds = [type(module) for module in model.modules()]
    keys = [set(vars(module)) for module in model.modules()]
    before = model(*batch)
    bridge.accelerate(model)
    report = bridge.restore(model)
    assert [name for name, _ in report.swapped] == NAMES
    assert [type(module) for module in model.modules()] == kinds
    assert [set(vars(module)) for module in model.modules()] == keys
    assert torch.equal(model(*batch), before)
    assert bridge.restore(model).swapped == []


def test_again(model):
    bridge.accelerate(model)
    report = bridge.accelerate(model)
    assert report.swapped == []
    assert report.left == [(name, "is of fastmask already") for name in NAMES]
    bridge.restore(model)
    assert type(model.shared) is torch.nn.GRU


def test_optimizer_built_before(model, batch):
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, twin)]
    train(model, optimizers[0], batch, 2)
    train(twin, optimizers[1], batch, 2)
    parameters = list(model.parameters())
    bridge.accelerate(model)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    close(train(model, optimizers[0], batch, 5), train(twin, optimizers[1], batch, 5))
    bridge.restore(model)
    close(train(model, optimizers[0], batch, 3), train(twin, optimizers[1], batch, 3))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_state_dicts_go_both_ways(model, batch):
    other = Classifier().double()
    bridge.accelerate(model)
    assert list(model.state_dict()) == list(other.state_dict())
    other.load_state_dict(model.state_dict())
    close(other(*batch), model(*batch))
    model.load_state_dict(Classifier().double().state_dict())
    assert not torch.allclose(other(*batch), model(*batch))


def test_copies(model, batch):
    bridge.accelerate(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(other(*batch), model(*batch))
        assert [name for name, _ in bridge.restore(other).swapped] == NAMES
        close(other(*batch), model(*batch))
    assert isinstance(model.shared, bridge.GRU)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_model_that_is_a_layer(kind):
    layer = getattr(torch.nn, kind)(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    before = layer(x)[0]
    report = bridge.accelerate(layer)
    assert report.swapped == [("", f"torch.nn.{kind} -> fastmask.torch.{kind}")]
    assert "(the model)" in str(report)
    close(layer(x)[0], before)
    bridge.restore(layer)
    assert type(layer) is getattr(torch.nn, kind)


def test_hooks_stay(model, batch):
    seen = []
    model.shared.register_forward_hook(lambda module, inputs, output: seen.append(module))
    bridge.accelerate(model)
    model(*batch)
    assert seen == [model.shared]
    assert isinstance(model.shared, bridge.GRU)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_with_hooks():
    layer = torch.nn.utils.weight_norm(torch.nn.LSTM(3, 4).double(), "weight_hh_l0")
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    before = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    assert len(bridge.accelerate(layer).swapped) == 1
    after = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    close(after, before)


def parametrized():
    layer = torch.nn.GRU(3, 4)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.nn.LSTM(3, 4, proj_size=2), "proj_size=2"),
        (lambda: torch.nn.LSTM(3, 4, dtype=torch.bfloat16), "weight_ih_l0 is torch.bfloat16"),
        (lambda: torch.nn.GRU(3, 4, device="meta"), "weight_ih_l0 is on meta"),
        (lambda: torch.nn.LSTMCell(3, 4), "is LSTMCell, one step of a loop in other code"),
        (lambda: torch.nn.GRUCell(3, 4), "is GRUCell, one step"),
        (lambda: torch.nn.RNNCell(3, 4), "is RNNCell, one step"),
        (lambda: torch.nn.RNNBase("LSTM", 3, 4), "is RNNBase, not a torch.nn.LSTM, GRU or RNN"),
        (lambda: torch.jit.script(torch.nn.GRU(3, 4)), "is TorchScript's GRU"),
        (lambda: torch.jit.script(torch.nn.LSTMCell(3, 4)), "is TorchScript's LSTMCell"),
        (lambda: torch.ao.nn.quantized.dynamic.LSTM(3, 4), "is torch.ao's LSTM"),
        (lambda: torch.ao.nn.quantized.dynamic.GRUCell(3, 4), "is torch.ao's GRUCell"),
        (parametrized, "is parametrized"),
        (lambda: bridge.LSTM(3, 4), "is of fastmask already"),
    ],
)
def test_what_is_left(make, reason):
    layer = make()
    kind = type(layer)
    model = torch.nn.Sequential(layer, torch.nn.LSTM(3, 4))
    report = bridge.accelerate(model)
    assert [name for name, _ in report.swapped] == ["1"]
    ((name, why),) = report.left
    assert name == "0"
    assert reason in why
    assert reason in str(report)
    assert type(layer) is kind
    bridge.restore(model)
    assert type(layer) is kind


def test_a_class_that_changed_after_acceleration_is_named():
    layer = torch.nn.GRU(3, 4)
    bridge.accelerate(layer)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert bridge.restore(layer).left == [("", "has had its class changed since")]
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    bridge.restore(layer)
    assert type(layer) is torch.nn.GRU


@pytest.mark.filterwarnings("ignore")
def test_quantisation_passes_by_with_a_warning():
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    x = torch.randn(5, 2, 3)
    expected = model(x)[0]
    bridge.accelerate(model)
    with pytest.warns(UserWarning, match=r"LSTM on fastmask's kernels is not quantised; fastmask\.torch\.restore"):
        quantised = torch.ao.quantization.quantize_dynamic(model)
    torch.testing.assert_close(quantised(x)[0], expected)
    bridge.restore(model)
    assert type(torch.ao.quantization.quantize_dynamic(model)[0]) is torch.ao.nn.quantized.dynamic.LSTM


def test_no_model():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn.Module, got list"):
        bridge.accelerate([torch.nn.LSTM(3, 4)])
