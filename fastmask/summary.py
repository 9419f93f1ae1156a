"""The table that `Sequential.summary` prints."""

from collections.abc import Sequence
from math import prod
from typing import Any

_UNITS = ("B", "KB", "MB", "GB")


def table(model: Any) -> str:
    """Return the layers of a model as Keras lists them, with a column for the mask.

    The mask of a layer's output is "made" by it, "passed" on from its input, or "used" up by it.
    """
    rows = [("Layer (type)", "Output Shape", "Param #", "Mask")]
    incoming = None
    for layer, source in zip(model.layers, model.mask_sources, strict=True):
        mask = "made" if source is layer else "passed" if source else "used" if incoming else "-"
        params = f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"
        shape = "?" if layer.output_shape is None else str(layer.output_shape)
        rows.append((f"{layer.name} ({type(layer).__name__})", shape, params, mask))
        incoming = source
    return "\n".join([f'Model: "{model.name}"', *_box(rows), *_totals(model)])


def _box(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]

    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * width for width in widths) + right

    def cells(row: tuple[str, ...], bar: str) -> str:
        texts = [
            f" {text} ".rjust(width) if i == 2 else f" {text} ".ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return bar + bar.join(texts) + bar

    between = rule("├", "─", "┼", "┤")
    body = [line for row in rows[1:] for line in (between, cells(row, "│"))][1:]
    head = [rule("┏", "━", "┳", "┓"), cells(rows[0], "┃"), rule("┡", "━", "╇", "┩")]
    return [*head, *body, rule("└", "─", "┴", "┘")]


def _totals(model: Any) -> list[str]:
    kinds = {
        "Total": model.weights,
        "Trainable": model.trainable_weights,
        "Non-trainable": model.non_trainable_weights,
    }
    return [
        f" {kind} params: {sum(prod(w.shape) for w in weights):,} "
        f"({_size(sum(w.value.nbytes for w in weights))})"
        for kind, weights in kinds.items()
    ]


def _size(nbytes: int) -> str:
    size, unit = float(nbytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {_UNITS[unit]}"
