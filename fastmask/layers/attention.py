"""Attention: every query looks at all valid values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.layers import aligning
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.flow import cotangents, pack_by, run, same
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.core import keep_factor
from fastmask.random import SeedGenerator, as_generator


class Attention(Layer):
    """Dot-product attention, or additive with ``score_mode="concat"``.

    Parameters
    ----------
    use_scale : bool, default False
        Whether a weight multiplies the scores.
    score_mode : {"dot", "concat"}, default "dot"
        Scores are ``query @ key``, or ``weight * sum(tanh(query + key))``.
    dropout : float, default 0.0
        Fraction of the attention weights dropped while training.
    seed : int or SeedGenerator, optional
    **kwargs
        See `Layer`.

    Notes
    -----
    Input ``[query (B, Q, D), value (B, V, E)]`` or ``[query, value, key (B, V, D)]``; the key is the
    value by default. Output (B, Q, E), or that and the attention weights (B, Q, V) of a call with
    ``return_attention_scores=True``. ``use_causal_mask=True`` hides from each query the values
    of later steps. Masked values get no weight; masked queries give zeros, and their mask is
    passed on. Weights scale () and concat_score_weight ().
    """

    supports_masking = True
    takes_list = True
    input_rank = 3
    call_options = ("return_attention_scores", "use_causal_mask")

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: int | SeedGenerator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_scale = bool(use_scale)
        self.score_mode = checks.choice("score_mode", score_mode, ("dot", "concat"))
        self.dropout = checks.fraction("dropout", dropout)
        self.seed = seed
        if self.dropout:
            self.seed_generator = as_generator(seed)

    @property
    def stochastic(self) -> bool:
        return self.dropout > 0

    def create_weights(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        self.scale = self.add_weight((), "ones", "scale") if self.use_scale else None
        additive = self.score_mode == "concat"
        self.concat_score_weight = self.add_weight((), "ones", "concat_score_weight") if additive else None

    def compute_output_shape(self, input_shape: Any, return_attention_scores: bool = False, **_: Any) -> Any:
        shapes = [tuple(shape) for shape in input_shape]
        if len(shapes) not in (2, 3) or any(len(shape) != 3 for shape in shapes):
            raise ValueError(
                f"x: expected [query, value] or [query, value, key] with 3 axes each for {describe(self)}, got {shapes}"
            )
        query, value, key = shapes[0], shapes[1], shapes[-1]
        for wanted, found in ((query[2], key[2]), (value[1], key[1]), (query[0], value[0])):
            if None not in (wanted, found) and wanted != found:
                raise ValueError(f"x: expected a query, value and key that fit for {describe(self)}, got {shapes}")
        y: Shape = (*query[:-1], value[-1])
        return (y, (*query[:-1], key[1])) if return_attention_scores else y

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        return [masked[0], *[0] * (outputs - 1)]

    def reads(self, shapes: Sequence[Any], masks: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """Return the steps of queries that count, and those of values and keys that get a weight.

        A query that may look at none looks at all alike, as in Keras, and attention weights are those of all queries.
        """
        self.compute_output_shape(shapes)
        everywhere, read = np.ones(shapes[0][:2], bool), masks[1]
        queries = everywhere if masks[0] is None or options.get("return_attention_scores") else masks[0]
        if read is not None:
            visible = self._visible(read, (shapes[0][1], shapes[1][1]), options)
            blind = queries & ~visible.any(axis=2)
            read = read | blind.any(axis=1, keepdims=True)
        keys = np.ones(shapes[-1][:2], bool) if read is None else read
        return [queries, read, keys][: len(shapes)]

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask of the query."""
        return None if mask is None else mask[0]

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        self.compute_output_shape([entry.shape for entry in x])
        arrays, masks, ways = aligning.grids(x, call.keep)
        query, value, key = arrays[0], arrays[1], arrays[-1]
        scale, concat = (None if w is None else w.value for w in (self.scale, self.concat_score_weight))
        visible = self._visible(masks[1], (query.shape[1], value.shape[1]), call.options)
        factor = None
        if call.training and self.stochastic:
            shape = (*query.shape[:2], value.shape[1])
            factor = keep_factor(self.seed_generator, self.dropout, shape, self.dtype)
        (found, scores), back = run("attention", call.keep, query, key, value, visible, scale, concat, factor)
        # Where a packed query is masked, the output shows zeros.
        y, leave_back = pack_by(found, x[0].packing) if isinstance(x[0], PackedSequence) else (found, same)
        output = (y, scores) if call.options.get("return_attention_scores") else y

        def pullback(dy: Any) -> Gradients:
            d, *d_scores = cotangents(dy, output, self.dtype)
            g = back(None if d is None else leave_back(d), *d_scores)
            parts = [g.query, g.value, g.key] if len(x) == 3 else [g.query, g.value + g.key]
            weights = [w for w in (g.scale, g.concat_weight) if w is not None]
            return Gradients([way(part) for way, part in zip(ways, parts, strict=True)], weights)

        return output, pullback

    def _visible(self, value_mask: Any, size: tuple[Any, Any], options: Mapping[str, Any]) -> Any:
        """Return which values each query may look at, to be broadcast to (B, Q, V); None for all."""
        visible = None if value_mask is None else value_mask[:, None]
        if not options.get("use_causal_mask"):
            return visible
        causal = np.tri(*size, dtype=bool)[None]
        return causal if visible is None else visible & causal
