"""Functional models, built the same way from Keras and from fastmask.

Each function takes the package (for ``Input`` and ``Model``), the module of its layers and a dtype.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 7


class Maker:
    """The layers of a package, all of one dtype."""

    def __init__(self, package: Any, dtype: str) -> None:
        self.package, self.dtype = package, dtype

    def __getattr__(self, name: str) -> Any:
        layer = getattr(self.package.layers, name)
        return lambda *args, **kwargs: layer(*args, **kwargs, dtype=self.dtype)

    def ids(self, name: str) -> Any:
        """Make an input of ids."""
        return self.package.Input((None,), dtype="int32", name=name)

    def series(self, features: int, name: str) -> Any:
        """Make an input of series."""
        return self.package.Input((None, features), dtype=self.dtype, name=name)

    def valid(self, name: str) -> Any:
        """Make an input of masks."""
        return self.package.Input((None,), dtype="bool", name=name)

    def vector(self, features: int, name: str) -> Any:
        """Make an input of one vector for each row."""
        return self.package.Input((features,), dtype=self.dtype, name=name)

    def model(self, inputs: Any, outputs: Any, **options: Any) -> Any:
        """Make a model."""
        return self.package.Model(inputs, outputs, **options)

    def explicit(self, embedding: Any, ids: Any) -> dict[str, Any]:
        """Pass a mask that Keras would drop beside an initial state; fastmask keeps it by itself."""
        return {"mask": embedding.compute_mask(ids)} if self.package.__name__ == "keras" else {}


def residual(make: Maker) -> Any:
    """Two recurrent layers with their input added to the output."""
    ids = make.ids("words")
    x = make.Embedding(VOCABULARY, 3, mask_zero=True)(ids)
    y = make.Add()([x, make.GRU(3, return_sequences=True)(x)])
    y = make.Add()([y, make.Bidirectional(make.LSTM(3, return_sequences=True), merge_mode="ave")(y)])
    return make.model(ids, make.Dense(2, activation="tanh", name="out")(y))


def shared(make: Maker) -> Any:
    """Two inputs of different masks through the same layers."""
    first, second = make.ids("first"), make.ids("second")
    embedding, encoder = make.Embedding(VOCABULARY, 3, mask_zero=True), make.LSTM(2)
    a, b = encoder(embedding(first)), encoder(embedding(second))
    return make.model([first, second], make.Dense(1, name="out")(make.Concatenate()([a, b])))


def encoder_decoder(make: Maker) -> Any:
    """A decoder that starts from the encoder's states."""
    source, target = make.ids("source"), make.ids("target")
    x = make.Embedding(VOCABULARY, 3, mask_zero=True)(source)
    _, h, c = make.LSTM(4, return_state=True)(x)
    embedding = make.Embedding(VOCABULARY, 2, mask_zero=True)
    start = {"initial_state": [h, c], **make.explicit(embedding, target)}
    y = make.LSTM(4, return_sequences=True)(embedding(target), **start)
    return make.model([source, target], make.Dense(5, activation="softmax", name="out")(y))


def several_outputs(make: Maker) -> Any:
    """A tag for each word and a number for each row, from words and a vector."""
    words, vector = make.ids("words"), make.vector(3, "vector")
    x = make.Embedding(VOCABULARY, 4, mask_zero=True)(words)
    steps = make.GRU(3, return_sequences=True)(x)
    last = make.GRU(2)(steps)
    tags = make.Dense(4, activation="softmax", name="tags")(steps)
    inner = make.vector(3, "inner")
    side = make.model(inner, make.Dense(2, activation="relu")(inner), name="side")
    number = make.Dense(1, name="number")(make.Concatenate()([last, side(vector)]))
    return make.model([words, vector], [tags, number])


def named_outputs(make: Maker) -> Any:
    """Inputs and outputs in dicts, and a model used twice."""
    one, two = make.series(2, "one"), make.series(2, "two")
    inner = make.series(2, "inner")
    encode = make.model(inner, make.GRU(3)(make.Masking()(inner)), name="encode")
    a, b = encode(one), encode(two)
    far, both = make.Subtract()([a, b]), make.Add()([a, b])
    outputs = {"far": make.Dense(1, name="x")(far), "both": make.Dense(2, name="y")(both)}
    return make.model({"one": one, "two": two}, outputs)


def explicit_masks(make: Maker) -> Any:
    """Masks that are inputs, compared or joined ones, passed to calls."""
    words, sounds, valid = make.ids("words"), make.series(2, "sounds"), make.valid("valid")
    read = make.LSTM(3, return_sequences=True)(make.Embedding(VOCABULARY, 3)(words), mask=(words != 0) & valid)
    masked = make.Masking()(sounds)
    heard = make.Bidirectional(make.GRU(2, return_sequences=True))(masked, mask=valid | ~(words != 0))
    again = make.GRU(3, return_sequences=True)(masked)
    both = make.Concatenate(name="both")([read, heard])
    last = make.LSTM(2)(make.Concatenate(name="all")([both, again]))
    inner = make.series(7, "inner")
    part = make.model(inner, make.SimpleRNN(2)(inner), name="part")
    looked = make.Attention()([make.Dense(7)(sounds), both], mask=[words != 0, valid])
    # A model of Keras that gets a mask leaves it on its input, so this has one of its own.
    parted = part(make.Activation("tanh")(both), mask=valid)
    rows = make.Concatenate(name="rows")([last, parted, make.LSTM(2)(looked)])
    rows = make.Dense(1, name="row")(rows)
    return make.model([words, sounds, valid], [make.Dense(2, name="steps")(both), rows])


GRAPHS = {
    graph.__name__: graph
    for graph in (residual, shared, encoder_decoder, several_outputs, named_outputs, explicit_masks)
}
