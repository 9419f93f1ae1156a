"""A weight that changes between calls without gradients is seen, however it changes."""

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


def by_new_data(module):
    module.weight_ih_l0.data = module.weight_ih_l0.data * 1.5


def by_new_parameter(module):
    module.bias_hh_l0 = torch.nn.Parameter(module.bias_hh_l0.detach() + 1)


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
    with pytest.raises(ValueError, match="RNN input dtype"):
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
