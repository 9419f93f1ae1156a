"""Programs that fastmask.torch's modules keep between calls without gradients: never of weights that have changed."""

import copy
import gc
import pickle
import threading
import weakref
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from fastmask import kernels  # noqa: E402
from fastmask.ops.rnn import RNNProgram  # noqa: E402
from fastmask.torch import _kept  # noqa: E402

CELLS = ("LSTM", "GRU", "RNN")
STEPS = (1, 2, 5)


def make(cell="LSTM", features=3, units=5, *arguments, seed=0, **keywords):
    torch.manual_seed(seed)
    return getattr(bridge, cell)(features, units, *arguments, batch_first=True, **keywords)


def inputs(steps=5, dtype=torch.float32, features=3):
    return torch.randn(2, steps, features, dtype=dtype, generator=torch.Generator().manual_seed(1))


def initial(module, x):
    """States that are not zero, so that single steps read all weights."""
    runs = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.full((runs, x.shape[0], module.hidden_size), 0.5, dtype=x.dtype)
    return (h, -h) if module.mode == "LSTM" else h


def results(module, x):
    with torch.no_grad():
        output, states = module(x, initial(module, x))
    return [output, *(states if isinstance(states, tuple) else (states,))]


def fresh(module, x):
    """Results of a copy, which has packed nothing."""
    twin = copy.deepcopy(module)
    assert twin not in _kept._kept
    return results(twin, x)


def check_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def differ(found, expected):
    return any(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def packings(monkeypatch):
    """Programs that are made, in a list."""
    made = []
    init = RNNProgram.__init__

    def spy(program, *arguments):
        made.append(program)
        init(program, *arguments)

    monkeypatch.setattr(RNNProgram, "__init__", spy)
    return made


def by_optimizer(kind, **options):
    def change(module):
        optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.1, **options)
        module(inputs())[0].sum().backward()
        optimizer.step()

    return change


def by_multiplication(module):
    module.weight_hh_l0.data.mul_(1.5)


def by_new_data(module):
    module.weight_ih_l0.data = module.weight_ih_l0.data * 1.5


def by_new_parameter(module):
    module.bias_hh_l0 = torch.nn.Parameter(module.bias_hh_l0.detach() + 1)


def by_numpy(module):
    # The last number that is compared.
    module.bias_hh_l0.detach().numpy()[-1] += 1


def by_loading(module):
    module.load_state_dict({name: tensor + 0.25 for name, tensor in module.state_dict().items()})


def by_assignment_of_a_state_dict(module):
    module.load_state_dict({name: tensor + 0.25 for name, tensor in module.state_dict().items()}, assign=True)


def by_copy(module):
    with torch.no_grad():
        module.weight_hh_l0.copy_(-module.weight_hh_l0)


def by_initialisation(module):
    module.reset_parameters()


def by_transposition(module):
    """Other strides on the same memory."""
    weight = module.weight_hh_l0
    weight.data = weight.data.reshape(weight.shape[1], -1).t()


CHANGES = [
    by_optimizer("SGD"), by_optimizer("SGD", foreach=True), by_optimizer("SGD", fused=True), by_optimizer("Adam"),
    by_optimizer("Adam", foreach=True), by_optimizer("Adam", fused=True), by_optimizer("AdamW", fused=True),
    by_multiplication, by_new_data, by_new_parameter, by_numpy, by_loading, by_assignment_of_a_state_dict, by_copy,
    by_initialisation, by_transposition,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_changed_weight_is_seen(cell, change):
    module = make(cell)
    for steps in STEPS:
        x = inputs(steps)
        before = results(module, x)
        check_same(results(module, x), before)
        change(module)
        after = results(module, x)
        assert differ(after, before)
        check_same(after, fresh(module, x))


@pytest.mark.parametrize("change", [by_optimizer("Adam", fused=True), by_numpy, by_multiplication])
def test_a_change_in_any_layer_and_direction_is_seen(change):
    module = make("GRU", 3, 5, 2, bidirectional=True)
    x = inputs()
    before = results(module, x)
    for name in ("l0", "l0_reverse", "l1", "l1_reverse"):
        getattr(module, f"weight_hh_{name}").data.mul_(1.25)
        after = results(module, x)
        assert differ(after, before)
        check_same(after, fresh(module, x))
        before = after
    change(module)
    check_same(results(module, x), fresh(module, x))


@pytest.mark.parametrize("cell", CELLS)
def test_unchanged_weights_are_packed_once(cell, packings):
    module = make(cell, 3, 5, 2, bidirectional=True)
    for grad in (torch.no_grad, torch.inference_mode):
        for steps in (5, 1, 5):
            with grad():
                module(inputs(steps))
    assert len(packings) == 4
    module.weight_ih_l1.data.add_(1)
    results(module, inputs())
    assert len(packings) == 5


def test_single_steps_pack_nothing(packings):
    for cell in CELLS:
        module = make(cell, 3, 17, 2, bidirectional=True)
        results(module, inputs(1))
        results(module, inputs(2))
    assert not packings


def by_negative_memory(module):
    """Another sign for numbers that stand where they stood."""
    weight = module.weight_hh_l0
    weight.data = torch.complex(weight.data, weight.data).imag
    results(module, inputs(1))
    assert not weight.is_neg()
    weight.data = torch.complex(weight.data, weight.data).conj().imag
    assert weight.is_neg()


def by_strided_biases(module):
    for name in ("bias_ih_l0", "bias_hh_l0"):
        bias = getattr(module, name)
        bias.data = torch.stack([bias.data + 1, bias.data]).T[:, 0]


def by_a_row_of_weights_for_all(module):
    module.weight_ih_l0.data = module.weight_ih_l0.data[:1].expand(module.weight_ih_l0.shape)


@pytest.mark.parametrize("change", [by_negative_memory, by_strided_biases, by_a_row_of_weights_for_all])
@pytest.mark.parametrize("cell", CELLS)
def test_single_steps_on_weights_that_lie_in_odd_ways(cell, change):
    module = make(cell, 3, 17)
    x = inputs(1)
    before = results(module, x)
    change(module)
    for _ in range(2):
        module.weight_hh_l0.data.mul_(1.5)
        after = results(module, x)
        assert differ(after, before)
        with torch.enable_grad():
            output, _ = module(x, initial(module, x))
        check_same(after[:1], [output.detach()])
        before = after


def test_calls_that_record_gradients_keep_nothing(packings):
    module = make()
    for _ in range(3):
        module(inputs())[0].sum().backward()
    assert len(packings) == 3
    assert all(program._kept is None for program in _kept.kept_programs(module))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_the_bits_are_those_of_calls_that_pack(cell, dtype, bias):
    module = make(cell, 3, 17, 2, bidirectional=True, dtype=dtype, bias=bias)
    for steps in (1, 2, 9):
        x = inputs(steps, dtype)
        with torch.enable_grad():
            output, states = module(x, initial(module, x))
        recorded = [t.detach() for t in (output, *(states if isinstance(states, tuple) else (states,)))]
        check_same(results(module, x), recorded)
        check_same(results(module, x), recorded)


def test_average_of_models():
    module = make()
    averaged = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    x = inputs()
    for step in range(3):
        averaged.update_parameters(module)
        check_same(results(averaged.module, x), fresh(averaged.module, x))
        by_optimizer("SGD")(module)
        assert differ(results(averaged.module, x), results(module, x)), step


def test_another_dtype():
    module = make()
    results(module, inputs())
    module.to(torch.float64)
    x = inputs(dtype=torch.float64)
    found = results(module, x)
    assert found[0].dtype == torch.float64
    check_same(found, fresh(module, x))
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected torch.float32"):
        results(module, inputs())


def test_another_shape_with_the_same_bytes():
    module = make("RNN", 3, 5)
    results(module, inputs())
    module.weight_ih_l0.data = module.weight_ih_l0.data.reshape(3, 5)
    with pytest.raises(ValueError, match="kernel: expected shape"):
        results(module, inputs())


def test_shared_memory():
    module = make()
    x = inputs()
    before = results(module, x)
    module.share_memory()
    check_same(results(module, x), before)
    by_multiplication(module)
    assert differ(results(module, x), before)
    check_same(results(module, x), fresh(module, x))


def test_tied_weights():
    first, second = make(features=5), make(features=5, seed=3)
    second.weight_hh_l0 = first.weight_hh_l0
    x = inputs(features=5)
    before = results(second, x)
    results(first, x)
    by_multiplication(first)
    assert differ(results(second, x), before)
    for module in (first, second):
        check_same(results(module, x), fresh(module, x))


def test_weight_normalisation_by_hooks():
    with pytest.warns(FutureWarning):
        module = torch.nn.utils.weight_norm(make(), "weight_hh_l0")
    x = inputs()
    before = results(module, x)
    check_same(results(module, x), before)
    module.weight_hh_l0_g.data.mul_(2)
    after = results(module, x)
    assert differ(after, before)
    torch.nn.utils.remove_weight_norm(module, "weight_hh_l0")
    check_same(after, fresh(module, x))


def test_parametrizations():
    module = torch.nn.utils.parametrizations.weight_norm(make(), "weight_hh_l0")
    x = inputs()
    before = results(module, x)
    check_same(results(module, x), before)
    module.parametrizations.weight_hh_l0.original0.data.mul_(2)
    after = results(module, x)
    assert differ(after, before)
    torch.nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
    check_same(after, fresh(module, x))


def test_functional_call_with_other_weights():
    module = make()
    x = inputs()
    before = results(module, x)
    others = {name: tensor.detach() + 0.5 for name, tensor in module.named_parameters()}
    with torch.no_grad():
        output, _ = torch.func.functional_call(module, others, (x, initial(module, x)))
    assert not torch.equal(output, before[0])
    check_same(results(module, x), before)


@pytest.mark.parametrize("cell", CELLS)
def test_another_instruction_set(cell):
    module = make(cell, 3, 37)
    for steps in STEPS:
        x = inputs(steps)
        for name in (*kernels.available(), *kernels.available()):
            with kernels.use(name):
                check_same(results(module, x), fresh(module, x))


def test_inference_tensors():
    with torch.inference_mode():
        module = make()
        before = results(module, inputs())
        module.weight_hh_l0.mul_(1.5)
        after = results(module, inputs())
        assert differ(after, before)
        check_same(after, fresh(module, inputs()))


def test_copies_and_pickles_have_no_program():
    plain, module = make(), make()
    results(module, inputs())
    bridge.freeze(module)
    results(module, inputs())
    assert vars(module).keys() == vars(plain).keys()
    assert module.state_dict().keys() == plain.state_dict().keys()
    for twin in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin not in _kept._kept
        assert vars(twin).keys() == vars(plain).keys()
        check_same(results(twin, inputs()), results(module, inputs()))


def test_programs_go_with_their_module():
    module = make()
    # A hook that holds the module must not keep it alive by way of what is kept.
    module.weight_ih_l0.register_hook(partial(getattr, module))
    results(module, inputs())
    program = weakref.ref(_kept.kept_programs(module)[0]._kept.program)
    gc.collect()
    count = len(_kept._kept)
    del module
    gc.collect()
    assert program() is None
    assert len(_kept._kept) == count - 1


def test_restored_modules_have_no_program():
    model = torch.nn.LSTM(3, 5, batch_first=True)
    bridge.accelerate(model)
    results(model, inputs())
    bridge.freeze(model)
    bridge.restore(model)
    assert model not in _kept._kept


@pytest.mark.parametrize("frozen", [False, True])
def test_threads_share_a_module(frozen):
    module = make("GRU", 3, 40, 2)
    x = inputs()
    expected = fresh(module, x)
    if frozen:
        bridge.freeze(module)
    start = threading.Barrier(4)
    failures = []

    def work():
        start.wait()
        for _ in range(20):
            if differ(results(module, x), expected):
                failures.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


class TestFrozen:
    @pytest.mark.parametrize("cell", CELLS)
    def test_a_changed_weight_is_seen_after_unfreeze(self, cell):
        module = make(cell)
        x = inputs()
        before = results(module, x)
        by_multiplication(module)
        # What was packed before the promise does not count.
        assert bridge.freeze(module) == [""]
        frozen = results(module, x)
        assert differ(frozen, before)
        by_numpy(module)
        by_optimizer("Adam")(module)
        for steps in (5, 1, 5):
            results(module, inputs(steps))
        check_same(results(module, x), frozen)
        assert bridge.unfreeze(module) == [""]
        found = results(module, x)
        assert differ(found, frozen)
        check_same(found, fresh(module, x))

    def test_gradients_are_those_of_the_weights_as_they_are(self):
        module = make()
        bridge.freeze(module)
        frozen = results(module, inputs())
        by_multiplication(module)
        output, _ = module(inputs(), initial(module, inputs()))
        assert differ([output.detach()], frozen[:1])

    def test_freezing_again_packs_anew(self):
        module = make()
        bridge.freeze(module)
        results(module, inputs())
        by_multiplication(module)
        bridge.freeze(module)
        check_same(results(module, inputs()), fresh(module, inputs()))

    def test_models(self):
        model = torch.nn.ModuleDict({"a": make(), "b": torch.nn.Linear(2, 2), "c": torch.nn.LSTM(3, 4)})
        assert bridge.freeze(model) == ["a"]
        bridge.accelerate(model)
        assert bridge.freeze(model) == ["a", "c"]
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
            bridge.freeze(3)
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
            bridge.unfreeze(3)

    def test_another_dtype(self):
        module = make()
        bridge.freeze(module)
        results(module, inputs())
        module.to(torch.float64)
        x = inputs(dtype=torch.float64)
        check_same(results(module, x), fresh(module, x))
