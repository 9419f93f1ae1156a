"""What records, scripts or imagines a call gets an error that names the way out, or all that a call computes."""

import io

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.fx.experimental.symbolic_shapes import ShapeEnv  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from fastmask.torch import functional  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
refused = pytest.raises(RuntimeError, match=r"cannot record .* fastmask\.torch\.restore\(model\)")


class Model(torch.nn.Module):
    """Layers of torch.nn, with or without packing."""

    def __init__(self, cell="LSTM", packed=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(torch.nn, cell)(3, 4, 2, batch_first=True, bidirectional=True)
        self.dense = torch.nn.Linear(8, 2)
        self.packed = packed

    def forward(self, x):
        if self.packed:
            x = pack_padded_sequence(x, [6, 4], batch_first=True)
        output = self.layer(x)[0]
        return self.dense(output.data if self.packed else output)


def accelerated(*arguments):
    model = Model(*arguments)
    assert bridge.accelerate(model).swapped
    return model


class Function(torch.nn.Module):
    """A functional form within a module."""

    def forward(self, x):
        return functional.simple_rnn(x, torch.ones(3, 4), torch.ones(4, 4))[0]


def batch(seed=1):
    return torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))


IDS = torch.tensor([[3, 1, 2], [0, 1, 4]])
CASES = {
    "LSTM": (lambda: accelerated("LSTM"), batch),
    "GRU": (lambda: accelerated("GRU"), batch),
    "RNN": (lambda: accelerated("RNN"), batch),
    "packed": (lambda: accelerated("LSTM", True), batch),
    "class": (lambda: bridge.LSTM(3, 4, batch_first=True), batch),
    "function": (Function, batch),
    "embedding": (lambda: bridge.Embedding(5, 3), lambda: IDS),
}
cases = pytest.mark.parametrize("case", CASES)
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@cases
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", MODES)
class TestTorchScript:
    def test_trace(self, case, mode, training):
        model, x = (make() for make in CASES[case])
        with MODES[mode](), refused:
            torch.jit.trace(model.train(training), (x,))

    def test_onnx(self, case, mode, training):
        """The exporter that traces."""
        pytest.importorskip("onnx")
        model, x = (make() for make in CASES[case])
        with MODES[mode](), refused:
            torch.onnx.export(model.train(training), (x,), io.BytesIO(), dynamo=False)


@pytest.mark.parametrize("case", [case for case in CASES if case != "function"])
def test_script(case):
    with refused:
        torch.jit.script(torch.nn.Sequential(CASES[case][0]()))


# PyTorch's strict export refuses pack_padded_sequence.
programs = pytest.mark.parametrize(("case", "strict"), [*((case, False) for case in CASES), ("LSTM", True)])


@programs
def test_onnx_of_exported_programs(case, strict):
    """The exporter behind ``torch.export``: from a model, and from a program that was exported before."""
    pytest.importorskip("onnxscript")
    model, x = (make() for make in CASES[case])
    program = torch.export.export(model, (x,), strict=strict)
    for given in (model, program):
        with pytest.raises(Exception, match=r"torch\.onnx\.export cannot record .* fastmask\.torch\.restore\(model\)"):
            torch.onnx.export(given, (x,), dynamo=True, verbose=False)
    torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("dynamo", [False, True])
def test_restored_models_are_exported(dynamo):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = accelerated()
    bridge.restore(model)
    file = io.BytesIO()
    torch.onnx.export(model, (batch(),), file, dynamo=dynamo, verbose=False)
    assert "LSTM" in [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]


@pytest.mark.parametrize("record", [torch.jit.trace, lambda model, x: torch.jit.script(model)])
def test_restored_models_are_recorded(record):
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4, 2, bidirectional=True))
    bridge.accelerate(model)
    bridge.restore(model)
    torch.testing.assert_close(record(model, (batch(),))(batch(2)), model(batch(2)))


@programs
@pytest.mark.parametrize("mode", MODES)
def test_export(case, mode, strict):
    """torch.export records the layers as operators: other inputs, other results."""
    model, x = (make() for make in CASES[case])
    other = x.flip(0)
    with MODES[mode]():
        program = torch.export.export(model, (x,), strict=strict).module()
        torch.testing.assert_close(program(other), model(other), rtol=0, atol=0)


def test_symbolic_trace():
    for model in (accelerated(), bridge.GRU(3, 4), bridge.Embedding(5, 3)):
        with refused:
            torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("pre_dispatch", [False, True])
class TestMakeFx:
    def test_modules(self, pre_dispatch):
        layer = bridge.LSTM(3, 4, batch_first=True, bidirectional=True)
        mask = batch()[:, :, 0] > 0
        graph = make_fx(lambda x, mask: layer(x, mask=mask)[0], pre_dispatch=pre_dispatch)(batch(), mask)
        other = mask.flip(1)
        assert other.sum() == mask.sum()
        assert torch.equal(graph(batch(2), other), layer(batch(2), mask=other)[0])

    def test_embedding(self, pre_dispatch):
        embedding = bridge.Embedding(5, 3)
        graph = make_fx(lambda ids: embedding(ids), pre_dispatch=pre_dispatch)(IDS)
        assert torch.equal(graph(IDS.flip(0)), embedding(IDS.flip(0)))

    def test_mask_within_a_transform(self, pre_dispatch):
        """A mask made within a transform would be recorded as a constant, so it is refused."""
        layer = bridge.LSTM(3, 4, batch_first=True)

        def gradient(x, mask):
            return torch.func.grad(lambda x: layer(x, mask=mask)[0].sum())(x)

        with pytest.raises(RuntimeError, match=r"mask: expected values .* fastmask\.torch\.restore\(model\)"):
            make_fx(gradient, pre_dispatch=pre_dispatch)(batch(), batch()[:, :, 0] > 0)


def test_linearize():
    layer = bridge.GRU(3, 4, batch_first=True, dtype=torch.float64)
    _, tangent = torch.func.linearize(lambda x: layer(x)[0], batch().double())
    expected = torch.func.jvp(lambda x: layer(x)[0], (batch().double(),), (batch(2).double(),))[1]
    torch.testing.assert_close(tangent(batch(2).double()), expected)


class TestMeta:
    @pytest.mark.parametrize("model", [False, True])
    def test_modules(self, model):
        layer = bridge.LSTM(3, 4, device="meta" if model else "cpu")
        with pytest.raises(RuntimeError, match="not at the same device"):
            layer(batch().to("cpu" if model else "meta"))

    def test_moved_after_acceleration(self):
        model = accelerated().to("meta")
        assert model(batch().to("meta")).shape == (2, 6, 2)
        assert model.layer(batch().to("meta"), lengths=[3, 0])[0].shape == (2, 6, 8)

    def test_embedding(self):
        with pytest.raises(ValueError, match=r"weight: .* fastmask\.torch\.restore\(model\)"):
            bridge.Embedding(5, 3, device="meta")(IDS)
        with pytest.raises(ValueError, match="input: expected ids on the CPU, got meta"):
            bridge.Embedding(5, 3)(IDS.to("meta"))


def shapes(results):
    return [tuple(tensor.shape) for tensor in torch.utils._pytree.tree_leaves(results)]


class TestFakeTensors:
    @pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
    @pytest.mark.parametrize("mode", MODES)
    def test_shapes(self, cell, mode):
        expected = shapes(getattr(bridge, cell)(3, 4, 2, bidirectional=True)(batch()))
        with FakeTensorMode(), MODES[mode]():
            found = getattr(bridge, cell)(3, 4, 2, bidirectional=True)(batch(seed=1))
            assert shapes(found) == expected
            assert all(type(tensor) is not torch.Tensor for tensor in torch.utils._pytree.tree_leaves(found))

    def test_gradients(self):
        with FakeTensorMode():
            layer = bridge.LSTM(3, 4)
            layer(torch.randn(2, 6, 3))[0].sum().backward()
            assert shapes([p.grad for p in layer.parameters()]) == shapes(list(layer.parameters()))

    def test_functions_and_embeddings(self):
        with FakeTensorMode():
            assert Function()(torch.randn(2, 6, 3)).shape == (2, 6, 4)
            assert bridge.Embedding(5, 3)(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 3)

    def test_layers_of_real_memory(self):
        layer = bridge.LSTM(3, 4)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        assert layer(mode.from_tensor(batch()))[0].shape == (2, 6, 4)
        with mode:
            assert layer(batch())[0].shape == (2, 6, 4)

    @pytest.mark.parametrize("keywords", [{"lengths": [1, 2, 2]}, {"mask": True}])
    def test_masks(self, keywords):
        """How many steps count is not known; a ShapeEnv has symbols for such sizes."""
        for shape_env in (None, ShapeEnv()):
            with FakeTensorMode(shape_env=shape_env):
                given = {"mask": torch.ones(3, 2, dtype=torch.bool)} if "mask" in keywords else keywords
                layer, x = bridge.LSTM(3, 4, batch_first=True), torch.randn(3, 2, 3)
                if shape_env is not None:
                    assert layer(x, **given)[0].shape == (3, 2, 4)
                    continue
                with pytest.raises(RuntimeError, match=r"mask, lengths: .* fastmask\.torch\.restore\(model\)"):
                    layer(x, **given)


def test_modes_see_a_call_and_change_nothing():
    layer = bridge.LSTM(3, 4, batch_first=True)
    results = []
    for forward, backward in ((False, False), (True, False), (False, True), (True, True)):
        x = batch().requires_grad_()
        with FlopCounterMode(display=False) if forward else torch.enable_grad():
            y = layer(x, lengths=[5, 3])[0]
        with FlopCounterMode(display=False) if backward else torch.enable_grad():
            y.square().sum().backward()
        results.append((y, x.grad))
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(dx, results[0][1])
