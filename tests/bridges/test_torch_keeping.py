"""Programs that fastmask.torch's modules keep between calls without gradients: when they are made, and when dropped."""

import copy
import gc
import pickle
import threading
import weakref
from functools import partial

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from helpers.torch_weights import (  # noqa: E402
    CELLS,
    STEPS,
    by_multiplication,
    by_numpy,
    by_optimizer,
    check_same,
    differ,
    fresh,
    initial,
    inputs,
    make,
    results,
)

from fastmask import kernels  # noqa: E402
from fastmask.ops.rnn import RNNProgram  # noqa: E402
from fastmask.torch import _kept  # noqa: E402


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
