"""Life around the modules: worker processes, memory, import."""

import gc
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("fastmask.torch")


class Rows(torch.utils.data.Dataset):
    """Rows that a layer makes, in whatever process asks for them."""

    def __init__(self, layer, inputs):
        self.layer = layer
        self.inputs = inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(self.inputs[i])[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_workers(threads, set_threads):
    """Workers of a DataLoader forked after the parent used its threads compute the same numbers."""
    set_threads(threads)
    torch.manual_seed(0)
    layer = bridge.LSTM(3, 8)
    inputs = torch.randn(6, 20, 4, 3)
    expected = layer(inputs[0])[0]
    expected.sum().backward()
    loader = torch.utils.data.DataLoader(
        Rows(layer, inputs), batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    made = torch.cat(list(loader))
    assert torch.equal(made, torch.stack([layer(x)[0] for x in inputs]))
    assert torch.equal(made[0], expected)


def test_memory_stays_flat():
    """Calls whose results are dropped: recorded, with a backward pass, and without recording."""
    script = """
        import resource
        import torch
        import fastmask.torch

        layer = fastmask.torch.LSTM(32, 32, batch_first=True)
        x = torch.randn(32, 50, 32)

        def call():
            layer(x, lengths=[50] * 32)
            layer(x, lengths=[50] * 32)[0].sum().backward()
            with torch.no_grad():
                layer(x, lengths=[50] * 32)

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        for _ in range(5):
            call()
        before = peak()
        for _ in range(50):
            call()
        print(peak() - before)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # A recorded call keeps 1.4 MB: those of 50 rounds would be more than 100.
    assert int(result.stdout) < 20


def test_nothing_is_left_of_a_dropped_graph():
    layer = bridge.GRU(3, 4, 2)

    def live():
        gc.collect()
        return sum(type(thing).__name__ == "Tape" for thing in gc.get_objects())

    before = live()
    output = layer(torch.randn(5, 2, 3))
    assert live() == before + 2
    del output
    assert live() == before


def test_fastmask_alone_does_not_import_torch():
    script = "import sys, fastmask, fastmask.ops, fastmask.layers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_without_torch():
    """The error names the extra."""
    script = "import sys; sys.modules['torch'] = None; import fastmask.torch"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode != 0
    assert "pip install 'fastmask[torch]'" in result.stderr
