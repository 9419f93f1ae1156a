"""fastmask.torch.Embedding: distinct rows forward and backward, dense and sparse gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

LENGTHS = torch.tensor([4, 7, 1, 6])
MASK = torch.arange(7) < LENGTHS[:, None]


@pytest.fixture
def ids():
    return torch.randint(0, 12, (4, 7), generator=torch.Generator().manual_seed(0))


def make_pair(**options):
    torch.manual_seed(1)
    theirs = torch.nn.Embedding(12, 3, dtype=torch.float64, **options)
    ours = bridge.Embedding(12, 3, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def packed_ids(ids):
    return pack_padded_sequence(ids, LENGTHS, batch_first=True, enforce_sorted=False)


@pytest.mark.parametrize("padding_idx", [None, 0, -2])
@pytest.mark.parametrize("sparse", [False, True])
class TestGradients:
    def test_all_ids(self, ids, sparse, padding_idx):
        theirs, ours = make_pair(sparse=sparse, padding_idx=padding_idx)
        weights = torch.randn(4, 7, 3, dtype=torch.float64)
        for module in (theirs, ours):
            (module(ids) * weights).sum().backward()
        assert torch.equal(ours(ids), theirs(ids))
        self.compare(ours, theirs, sparse, padding_idx)

    @pytest.mark.parametrize("by", ["mask", "lengths", "packed"])
    def test_ids_that_count(self, ids, sparse, padding_idx, by):
        theirs, ours = make_pair(sparse=sparse, padding_idx=padding_idx)
        packed = packed_ids(ids)
        spoilt = ids.masked_fill(~MASK, 10**6)
        rows = {
            "mask": lambda: ours(spoilt, mask=MASK),
            "lengths": lambda: ours(spoilt, lengths=LENGTHS),
            "packed": lambda: ours(packed),
        }[by]()
        assert len(rows.rows) == len(packed.data.unique())
        assert torch.equal(rows.data, theirs(packed.data))
        expanded = rows.expand()
        if by == "packed":
            assert isinstance(expanded, PackedSequence)
            assert torch.equal(expanded.data, rows.data)
        else:
            assert torch.equal(expanded, theirs(ids) * MASK[:, :, None])
        weights = torch.randn(*rows.data.shape, dtype=torch.float64)
        (rows.data * weights).sum().backward()
        (theirs(packed.data) * weights).sum().backward()
        self.compare(ours, theirs, sparse, padding_idx)

    def compare(self, ours, theirs, sparse, padding_idx):
        actual, expected = ours.weight.grad, theirs.weight.grad
        assert actual.is_sparse == sparse
        if sparse:
            places, values = actual._indices(), actual._values()
            torch.sparse_coo_tensor(places, values, actual.shape, check_invariants=True)
            assert places.shape[1] == len(places.unique())
            assert padding_idx is None or padding_idx % 12 not in places
            actual, expected = actual.coalesce(), expected.coalesce()
            assert torch.equal(actual.indices(), expected.indices())
            actual, expected = actual.values(), expected.values()
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_gradcheck(ids):
    weight = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    module = bridge.Embedding(12, 3)

    def call(weight):
        return torch.func.functional_call(module, {"weight": weight}, (ids,), {"mask": MASK}).rows

    assert torch.autograd.gradcheck(call, (weight,))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("by", ["mask", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_feeds_a_layer(ids, cell, by, bidirectional):
    """Distinct rows into a layer: results and gradients of torch.nn's embedding and layer on packed data."""
    theirs, ours = make_pair()
    options = {"num_layers": 2, "bidirectional": bidirectional, "dtype": torch.float64}
    their_layer = getattr(torch.nn, cell)(3, 4, **options)
    our_layer = getattr(bridge, cell)(3, 4, **options)
    our_layer.load_state_dict(their_layer.state_dict())
    packed = packed_ids(ids)
    expected, their_states = their_layer(PackedSequence(theirs(packed.data), *packed[1:]))
    if by == "packed":
        output, our_states = our_layer(ours(packed))
        assert torch.equal(output.batch_sizes, packed.batch_sizes)
        data = output.data
    else:
        output, our_states = our_layer(ours(ids, mask=MASK))
        assert output.shape == (7, 4, expected.data.shape[1])
        assert not output[~MASK.t()].any()
        data = pack_padded_sequence(output, LENGTHS, enforce_sorted=False).data
    torch.testing.assert_close(data, expected.data, rtol=0, atol=1e-12)
    torch.testing.assert_close(our_states, their_states, rtol=0, atol=1e-12)
    weights = torch.randn(*data.shape, dtype=torch.float64)
    (data * weights).sum().backward()
    (expected.data * weights).sum().backward()
    for a, b in zip((ours.weight, *our_layer.parameters()), (theirs.weight, *their_layer.parameters()), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-11)


def test_sparse_adam(ids):
    """SparseAdam's steps are those with torch.nn's embedding, and rows that no id names stay."""
    theirs, ours = make_pair(sparse=True)
    start = ours.weight.detach().clone()
    targets = torch.randn(len(packed_ids(ids).data), 3, dtype=torch.float64)
    for module in (theirs, ours):
        optimizer = torch.optim.SparseAdam(module.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            packed = packed_ids(ids.clamp(max=8))
            data = module(packed).data if module is ours else module(packed.data)
            (data - targets).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
    assert torch.equal(ours.weight[9:], start[9:])
    assert not torch.equal(ours.weight[:9], start[:9])


def test_made_from_a_table():
    table = torch.randn(5, 2)
    module = bridge.Embedding.from_pretrained(table, padding_idx=1, sparse=True)
    assert isinstance(module, bridge.Embedding)
    assert not module.weight.requires_grad
    assert module.sparse
    assert module.padding_idx == 1
    assert torch.equal(module(torch.tensor([3, 1, 3])), table[[3, 1, 3]])
    assert repr(module) == repr(torch.nn.Embedding.from_pretrained(table, padding_idx=1, sparse=True))


class TestErrors:
    module = bridge.Embedding(12, 3)

    @pytest.mark.parametrize("bad", [-1, 12])
    def test_range(self, bad):
        with pytest.raises(IndexError, match=f"ids: expected ids from 0 to 11, got {bad}"):
            self.module(torch.tensor([3, bad]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_floats(self, dtype):
        ids = torch.tensor([[3, 1], [0, 2]])
        torch.testing.assert_close(self.module(ids.to(dtype)), self.module(ids), rtol=0, atol=0)
        for other in (1.5, float("nan"), float("inf")):
            with pytest.raises(TypeError, match=f"input: expected integers, got {dtype}"):
                self.module(torch.tensor([3, other], dtype=dtype))

    def test_masks_of_numbers(self):
        ids, lstm = torch.tensor([[3, 1], [0, 2]]), bridge.LSTM(3, 2, batch_first=True)
        mask = torch.tensor([[True, False], [True, True]])
        wanted = lstm(self.module(ids, mask=mask))[0]
        for dtype in (torch.int64, torch.float32, torch.bfloat16):
            found = lstm(self.module(ids, mask=mask.to(dtype)))[0]
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
            with pytest.raises(TypeError, match=f"mask: expected a torch.bool tensor on the CPU, got {dtype}"):
                self.module(ids, mask=2 * mask.to(dtype))

    def test_the_place_of_an_illegal_id(self):
        ids = torch.tensor([[3, 1], [0, 12], [12, 0]])
        packed = torch.nn.utils.rnn.pack_padded_sequence(ids, [2, 2, 2], batch_first=True)
        for arguments, options in (((ids,), {}), ((ids,), {"lengths": [1, 2, 2]}), ((packed,), {})):
            with pytest.raises(IndexError, match="got 12 in row 1 of the batch, position 1"):
                self.module(*arguments, **options)

    def test_no_tensor(self):
        with pytest.raises(TypeError, match=r"input: expected .*, got ndarray"):
            self.module(np.zeros(3, int))

    def test_shape(self):
        with pytest.raises(ValueError, match=r"input: expected ids \(batch, steps\)"):
            self.module(torch.zeros(3, dtype=torch.int64), lengths=[1])

    def test_mask_of_packed_ids(self):
        ids = packed_ids(torch.zeros(4, 7, dtype=torch.int64))
        with pytest.raises(ValueError, match="expected neither with packed ids"):
            self.module(ids, mask=MASK)

    @pytest.mark.parametrize(("option", "value"), [("max_norm", 1.0), ("scale_grad_by_freq", True)])
    def test_refused_options(self, option, value):
        with pytest.raises(ValueError, match=f"{option}: expected .*; use torch.nn.Embedding"):
            bridge.Embedding(12, 3, **{option: value})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("mask", [None, torch.ones(0, 5, dtype=torch.bool)])
def test_batches_of_no_rows(kind, mask):
    theirs, ours = (getattr(library, kind)(3, 2, 2, batch_first=True) for library in (torch.nn, bridge))
    wanted, found = theirs(torch.zeros(0, 5, 3)), ours(torch.zeros(0, 5, 3), mask=mask)
    assert found[0].shape == wanted[0].shape
    found[0].sum().backward()
    assert all(not weight.grad.any() for weight in ours.parameters())
    rows = bridge.Embedding(12, 3)(torch.zeros(0, 5, dtype=torch.int64), mask=mask)
    assert ours(rows)[0].shape == wanted[0].shape
