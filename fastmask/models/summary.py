"""The table that `summary` prints."""

from collections.abc import Sequence
from math import prod
from typing import Any

_UNITS = ("B", "KB", "MB", "GB")


def table(model: Any, expand_nested: bool = False) -> str:
    """Return the layers of a model as Keras lists them, with a column for the mask.

    The mask of a layer's output is "made" by it, "passed" on from its input, or "used" up by it.
    What the layers are connected to is told unless they follow one another.
    """
    chain = _is_chain(model)
    connected = () if chain else ("Connected to",)
    rows = [("Layer (type)", "Output Shape", "Param #", *connected, "Mask"), *_rows(model, chain, expand_nested)]
    return "\n".join([f'Model: "{model.name}"', *_box(rows), *_totals(model)])


def _rows(model: Any, chain: bool, expand_nested: bool, level: int = 0) -> list[tuple[str, ...]]:
    rows, made = [], {*model.graph.nodes} if model.built else set()
    for layer in model.operations:
        nodes = [node for node in layer.nodes if node in made]
        kind = "Functional" if layer.is_graph and type(layer).__name__ == "Model" else type(layer).__name__
        params = f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"
        connected = () if chain else (_connections(nodes),)
        name = "   " * level + ("└ " if level else "") + layer.name
        rows.append((f"{name} ({kind})", _shape(layer, nodes), params, *connected, _mask(model, layer, nodes)))
        if expand_nested and layer.is_graph:
            rows += _rows(layer, chain, True, level + 1)
    return rows


def _is_chain(model: Any) -> bool:
    if not model.built:
        return True
    nodes = model.graph.nodes
    used = [tensor for node in nodes for tensor in node.parents]
    once = len({node.layer for node in nodes}) == len(nodes) == len(model.graph.layers)
    return once and len({*used}) == len(used) and all(len(n.parents) < 2 for n in nodes)


def _connections(nodes: Sequence[Any]) -> str:
    places = [tensor.history for node in nodes for tensor in node.parents]
    return ", ".join(f"{layer.name}[{node}][{tensor}]" for layer, node, tensor in places) or "-"


def _shape(layer: Any, nodes: Sequence[Any]) -> str:
    shapes = [str(tensor.shape) for tensor in nodes[-1].outputs] if nodes else []
    if not shapes:
        return "?" if not layer.built or layer.output_shape is None else str(layer.output_shape)
    return shapes[0] if len(shapes) == 1 else f"[{', '.join(shapes)}]"


def _mask(model: Any, layer: Any, nodes: Sequence[Any]) -> str:
    if not nodes:
        source = model.mask_sources[model.layers.index(layer)] if not model.built else None
        return "-" if source is None else "made" if source is layer else "passed"
    sources = [tensor.mask_source for node in nodes for tensor in node.outputs]
    if any(source is not None for source in sources):
        return "made" if layer in sources else "passed"
    return "used" if any(source for node in nodes for source in node.mask_sources) else "-"


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
