"""What child processes do, importable by them."""

import numpy as np

from helpers.runs import compiled, rows


def known(fixed=(), **arguments):
    """A prediction and the weights after a training that needs no random numbers of its own."""
    model = fixed[0] if fixed else compiled(**arguments)
    x, y = rows()
    found = model.predict(x, verbose=0)
    for start in range(0, len(x), 24):
        model.evaluate(x[start : start + 24], y[start : start + 24], verbose=0)
    return found


def answer(answers, model=None):
    """Put a prediction of a new model, or of the one that is given, into a queue."""
    answers.put(known() if model is None else known((model,)))


class Predictions:
    """A dataset of rows predicted by a model, for a DataLoader."""

    def __init__(self, model):
        self.model = model
        self.x = rows()[0]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return np.asarray(self.model.predict(self.x[index : index + 1], verbose=0)[0])
