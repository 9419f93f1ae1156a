"""Follow long series in short pieces: a stateful LSTM remembers what it saw in the piece before.

    python examples/stateful.py [--forgetful] [--keras]

Every target is the mean of the last `WINDOW` values, more than one piece holds, so a model that starts afresh with
every piece (``--forgetful``) cannot know it. The series end at different times; zeros follow, which `Masking` skips.
"""

import argparse
import importlib

import numpy as np

WINDOW = 24


def series(count, longest, seed=0):
    """Return x and y (count, longest, 1); the series are of different lengths, and zeros follow them."""
    rng = np.random.default_rng(seed)
    x, y = np.zeros((2, count, longest, 1), "float32")
    for row, length in enumerate(np.linspace(longest, longest / 2, count).astype(int)):
        values = rng.uniform(0.1, 1, length)
        sums = np.concatenate([np.zeros(WINDOW), values.cumsum()])
        x[row, :length, 0] = values
        y[row, :length, 0] = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    return x, y


def in_pieces(values, steps):
    """Return (pieces * count, steps, 1): all first pieces, one of each series, then all second ones, and so on."""
    return np.concatenate(np.split(values, values.shape[1] // steps, axis=1))


def build(lib, count, steps, units=16, stateful=True):
    """Return the compiled model for batches of `count` pieces."""
    model = lib.Sequential(
        [
            lib.Input(batch_shape=(count, steps, 1)),
            lib.layers.Masking(),
            lib.layers.LSTM(units, return_sequences=True, stateful=stateful, name="memory"),
            lib.layers.Dense(1),
        ]
    )
    model.compile(lib.optimizers.Adam(0.005), "mse")
    return model


def train(model, x, y, count, epochs, verbose=2):
    """Train on the pieces in their order, from forgotten states in every epoch; return the losses."""
    memory, losses = model.get_layer("memory"), []
    for _ in range(epochs):
        if memory.stateful:
            memory.reset_state()
        history = model.fit(x, y, batch_size=count, shuffle=False, verbose=verbose)
        losses += history.history["loss"]
    return losses


def main(arguments=None):
    """Train and return the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--pieces", type=int, default=40, help="of 12 steps each")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--forgetful", action="store_true", help="not stateful")
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    steps = WINDOW // 2
    x, y = (in_pieces(values, steps) for values in series(options.series, steps * options.pieces))
    model = build(lib, options.series, steps, stateful=not options.forgetful)
    model.summary()
    return train(model, x, y, options.series, options.epochs)[-1]


if __name__ == "__main__":
    main()
