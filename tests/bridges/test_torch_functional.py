"""fastmask.torch.functional: values against the NumPy reference, gradients against central differences."""

import gc

import numpy as np
import pytest
from helpers.masks import MASK_KINDS
from helpers.numeric import assert_close
from helpers.recurrent import CELLS, make_problem

from fastmask import reference

torch = pytest.importorskip("torch")
functional = pytest.importorskip("fastmask.torch.functional")


def tensors(problem):
    """Every float array of a problem as a tensor: x, kernel, recurrent_kernel, bias, then the states."""
    arrays = [problem.x, problem.kernel, problem.recurrent_kernel, problem.bias, *(problem.initial_state or ())]
    return [None if array is None else torch.from_numpy(array.copy()).requires_grad_() for array in arrays]


def caller(problem, **more):
    """A function of the tensors alone that returns the sequence, if any, and the states."""
    function = getattr(functional, problem.cell.function)
    mask = None if problem.mask is None else torch.from_numpy(problem.mask)

    def call(x, kernel, recurrent_kernel, bias, *states):
        options = problem.options | more
        sequence, finals = function(x, kernel, recurrent_kernel, bias, states or None, mask=mask, **options)
        return finals if sequence is None else (sequence, *finals)

    return call


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
class TestAgainstTheReference:
    def test_values(self, cell, mask, zeros, go_backwards):
        problem = make_problem(cell, mask=mask, go_backwards=go_backwards, zero_output_for_mask=zeros)
        function = getattr(reference, problem.cell.function)
        sequence, states = function(problem.x, *problem.parameters, mask=problem.mask, **problem.options)
        for actual, expected in zip(caller(problem)(*tensors(problem)), (sequence, *states), strict=True):
            assert_close(actual.detach().numpy(), expected)

    def test_gradients(self, cell, mask, zeros, go_backwards):
        problem = make_problem(cell, mask=mask, go_backwards=go_backwards, zero_output_for_mask=zeros)
        assert torch.autograd.gradcheck(caller(problem), tensors(problem))


@pytest.mark.parametrize("cell", CELLS)
class TestForms:
    def test_last_state_without_bias_and_initial_state(self, cell):
        problem = make_problem(cell, bias=False, initial_state=False, return_sequences=False)
        given = [tensor for tensor in tensors(problem) if tensor is not None]
        assert torch.autograd.gradcheck(lambda x, k, r: caller(problem)(x, k, r, None), given)

    def test_same_bits_with_and_without_gradient(self, cell):
        problem = make_problem(cell, batch=5, time=7, units=20, dtype=np.float32)
        recorded = caller(problem)(*tensors(problem))
        with torch.no_grad():
            plain = caller(problem)(*tensors(problem))
        with torch.inference_mode():
            inferred = caller(problem)(*tensors(problem))
        for a, b, c in zip(recorded, plain, inferred, strict=True):
            assert a.requires_grad
            assert not b.requires_grad
            assert c.is_inference()
            assert torch.equal(a, b)
            assert torch.equal(a, c)

    def test_padding_is_not_read(self, cell):
        problem = make_problem(cell, mask="left", batch=4, time=6)
        clean = tensors(problem)
        dirty = tensors(problem)
        with torch.no_grad():
            dirty[0][torch.from_numpy(~problem.valid)] = torch.nan
        results = [caller(problem)(*given) for given in (clean, dirty)]
        gradients = [torch.autograd.grad(sum(y.square().sum() for y in ys), given)
                     for ys, given in zip(results, (clean, dirty), strict=True)]
        for a, b in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
            assert torch.equal(a, b)

    def test_transposed_arguments(self, cell):
        problem = make_problem(cell, units=5)
        plain = tensors(problem)
        turned = [tensor.detach().t().contiguous().t().requires_grad_() if tensor.dim() == 2 else tensor
                  for tensor in plain]
        for a, b in zip(caller(problem)(*plain), caller(problem)(*turned), strict=True):
            assert torch.equal(a, b)
        assert torch.autograd.gradcheck(caller(problem), turned)

    def test_rows_without_a_step_give_zero_gradients(self, cell):
        problem = make_problem(cell, mask="all_empty", initial_state=False)
        given = tensors(problem)
        outputs = caller(problem)(*given)
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
        for tensor in given:
            assert tensor.grad.abs().sum() == 0


@pytest.mark.parametrize("cell", CELLS)
class TestTape:
    def test_backward_twice(self, cell):
        problem = make_problem(cell)
        given = tensors(problem)
        total = sum(y.square().sum() for y in caller(problem)(*given))
        first = torch.autograd.grad(total, given, retain_graph=True)
        again = torch.autograd.grad(total, given)
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()

    @pytest.mark.parametrize("which", range(4))
    def test_changes_in_place_are_noticed(self, cell, which):
        problem = make_problem(cell, mask="none", units=4)
        given = tensors(problem)
        y = caller(problem)(*given)[0]
        with torch.no_grad():
            given[which].mul_(2)
        if which == 0:  # packing copied what the run reads
            assert torch.autograd.grad(y.sum(), given)[0].shape == given[0].shape
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()

    def test_changed_output_is_noticed(self, cell):
        problem = make_problem(cell, mask="none")
        y = caller(problem)(*tensors(problem))[0]
        with torch.no_grad():
            y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    def test_copies_of_saved_tensors(self, cell):
        """Hooks that keep copies: the gradient is that at the copies, even if the originals change."""
        problem = make_problem(cell)
        given = tensors(problem)
        expected = torch.autograd.grad(sum(y.square().sum() for y in caller(problem)(*given)), given)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
            total = sum(y.square().sum() for y in caller(problem)(*given))
        with torch.no_grad():
            for tensor in given:
                tensor.mul_(3)
        for a, b in zip(torch.autograd.grad(total, given), expected, strict=True):
            assert torch.equal(a, b)

    def test_activation_checkpoint(self, cell):
        problem = make_problem(cell)
        given = tensors(problem)
        expected = torch.autograd.grad(sum(y.square().sum() for y in caller(problem)(*given)), given)
        outputs = torch.utils.checkpoint.checkpoint(caller(problem), *given, use_reentrant=False)
        for a, b in zip(torch.autograd.grad(sum(y.square().sum() for y in outputs), given), expected, strict=True):
            assert torch.equal(a, b)

    def test_memory_goes_with_the_graph(self, cell):
        problem = make_problem(cell)
        given = tensors(problem)

        def live():
            gc.collect()
            return sum(type(thing).__name__ == "Tape" for thing in gc.get_objects())

        before = live()
        outputs = caller(problem)(*given)
        assert live() == before + 1
        del outputs
        assert live() == before


class TestErrors:
    def call(self, function="lstm", **changes):
        arguments = {
            "x": torch.zeros(2, 3, 4), "kernel": torch.zeros(4, 20), "recurrent_kernel": torch.zeros(5, 20),
            "bias": torch.zeros(20),
        }
        return getattr(functional, function)(**arguments | changes)

    @pytest.mark.parametrize(
        ("changes", "error", "words"),
        [
            ({"x": np.zeros((2, 3, 4))}, TypeError, "x: expected a tensor, got ndarray"),
            ({"x": torch.zeros(2, 3, 4, dtype=torch.float16)}, TypeError, "x: .* got torch.float16"),
            ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, TypeError, "x: .* got torch.int64"),
            ({"x": torch.zeros(2, 3, 4, device="meta")}, ValueError, "x: expected a dense tensor on the CPU"),
            ({"x": torch.zeros(2, 3, 4).to_sparse()}, ValueError, "x: expected a dense tensor"),
            ({"x": torch.zeros(3, 4)}, ValueError, r"x: expected shape \(batch, steps, features\)"),
            ({"kernel": torch.zeros(4, 20, dtype=torch.float64)}, TypeError, "kernel: expected torch.float32"),
            ({"kernel": torch.zeros(3, 20)}, ValueError, r"kernel: expected shape \(4, 20\)"),
            ({"recurrent_kernel": torch.zeros(5, 21)}, ValueError, r"recurrent_kernel: expected shape \(5, 20\)"),
            ({"recurrent_kernel": torch.zeros(20)}, ValueError, "recurrent_kernel: expected two dimensions"),
            ({"bias": torch.zeros(2, 20)}, ValueError, r"bias: expected shape \(20,\)"),
            ({"initial_state": (torch.zeros(2, 5),)}, ValueError, "initial_state: expected 2 tensors, got 1"),
            ({"initial_state": (torch.zeros(2, 5), torch.zeros(2, 4))}, ValueError, r"initial_state\[1\]: .*\(2, 5\)"),
            ({"mask": torch.full((2, 3), 0.5)}, TypeError, "mask: expected a torch.bool tensor"),
            ({"mask": torch.zeros(3, 2, dtype=torch.bool)}, ValueError, r"mask: expected shape \(2, 3\)"),
            ({"mask": [[True] * 3] * 2}, TypeError, "mask: expected a bool tensor, got list"),
            ({"activation": "swish"}, ValueError, "activation"),
        ],
    )
    def test_bad_argument(self, changes, error, words):
        with pytest.raises(error, match=words):
            self.call(**changes)

    def test_bias_of_a_gru(self):
        kernels = {"kernel": torch.zeros(4, 15), "recurrent_kernel": torch.zeros(5, 15)}
        with pytest.raises(ValueError, match=r"bias: expected shape \(2, 15\)"):
            self.call("gru", bias=torch.zeros(15), **kernels)
        with pytest.raises(ValueError, match=r"bias: expected shape \(15,\)"):
            self.call("gru", bias=torch.zeros(2, 15), reset_after=False, **kernels)


def test_autocast_widens():
    problem = make_problem("lstm", dtype=np.float32)
    given = [tensor.detach() for tensor in tensors(problem)]
    halves = [tensor.bfloat16() for tensor in given]
    expected = caller(problem)(*(tensor.float() for tensor in halves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = caller(problem)(*halves)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(TypeError, match=r"x: .* got torch.bfloat16"):
        caller(problem)(*halves)


