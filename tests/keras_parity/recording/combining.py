"""Layers that normalize, merge, pool, reshape or attend, in float64, under masks.

Masked places of an input hold one vector, its fill, as those of a packed batch do.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .common import BATCH, FEATURES, MASKS, STEPS, as_list, normal, set_random_weights

ELEMENTWISE = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
PAIRS = (("none", "none"), ("holes", "none"), ("right", "left"), ("holes", "holes"), ("empty", "leading"))


def masked_input(mask: str, index: int, steps: int = STEPS, features: tuple[int, ...] = (FEATURES,)) -> Any:
    """Return an input with its mask and its fill."""
    x, fill = normal(BATCH, steps, *features, names=("input", index)), normal(*features, names=("fill", index))
    own = MASKS[mask]
    if own is None:
        return x, None, None
    return np.where(own[:, :steps].reshape(BATCH, steps, *[1] * len(features)), x, fill), own[:, :steps], fill


def record(name: str, config: dict[str, Any], inputs: list[Any], **options: Any) -> dict[str, Any]:
    """Record outputs, masks, gradients and, after the call, the weights of a layer on inputs with masks."""
    import tensorflow as tf
    from keras.src import backend

    layer = getattr(keras.layers, name)(dtype="float64", **config)
    arrays = [tf.constant(x) for x, _, _ in inputs]
    masks = [None if mask is None else tf.constant(mask) for _, mask, _ in inputs]
    several = name in (*ELEMENTWISE, "Concatenate", "Dot", "Attention")
    shapes = [tuple(x.shape) for x in arrays]
    layer.build(shapes if several else shapes[0])
    set_random_weights(layer, name)
    for variable in layer.weights:
        if "variance" in variable.name:
            variable.assign(np.abs(variable.numpy()) + 0.1)
    weights = layer.get_weights()
    if name in ("Attention", "BatchNormalization", "GlobalAveragePooling1D"):
        options = options | {"mask": masks if several else masks[0]}
    for x, mask in zip(arrays, masks, strict=True):
        if mask is not None:
            backend.set_keras_mask(x, mask)
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        outputs = as_list(layer(arrays if several else arrays[0], **options))
        cotangents = [normal(*y.shape, names=("cotangent", i)) for i, y in enumerate(outputs)]
        total = sum(tf.reduce_sum(y * c) for y, c in zip(outputs, cotangents, strict=True))
    options.pop("mask", None)
    gradients = tape.gradient(
        total, [arrays, [w.value for w in layer.weights]], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    found = layer.compute_mask(arrays if several else arrays[0], masks if several else masks[0])
    return {
        "layer": name,
        "config": config,
        "several": several,
        "options": options,
        "inputs": [x for x, _, _ in inputs],
        "masks": [mask for _, mask, _ in inputs],
        "fills": [fill for _, _, fill in inputs],
        "weights": [np.asarray(w) for w in weights],
        "weights_after": [np.asarray(w) for w in layer.get_weights()],
        "outputs": [y.numpy() for y in outputs],
        "output_mask": None if found is None else np.asarray(found),
        "cotangents": cotangents,
        "gradients": {"inputs": [g.numpy() for g in gradients[0]], "weights": [np.asarray(g) for g in gradients[1]]},
    }


def merges() -> dict[str, Any]:
    """Record every merging layer for pairs of masks, and a few shapes."""
    cases = {}
    for kinds in PAIRS:
        inputs = [masked_input(kind, i) for i, kind in enumerate(kinds)]
        label = "-".join(kinds)
        for name in ELEMENTWISE:
            cases[f"{name}-{label}"] = record(name, {}, inputs)
        for axis, steps in ((-1, STEPS), (1, STEPS - 2)):
            pair = [masked_input(kinds[0], 0), masked_input(kinds[1], 1, steps)]
            cases[f"Concatenate-{axis}-{label}"] = record("Concatenate", {"axis": axis}, pair)
        cases[f"Dot-{label}"] = record("Dot", {"axes": 2}, inputs)
    third = masked_input("leading", 2)
    for name in ("Multiply", "Maximum", "Average", "Concatenate"):
        three = [masked_input("holes", 0), masked_input("right", 1), third]
        cases[f"{name}-three"] = record(name, {}, three)
    vector = (normal(BATCH, FEATURES), None, None)
    for name in ("Add", "Multiply", "Minimum"):
        cases[f"{name}-vector"] = record(name, {}, [masked_input("holes", 0), vector])
    cases["Dot-cosine"] = record("Dot", {"axes": [1, 1], "normalize": True}, [vector, vector])
    cases["Dot-mixed"] = record("Dot", {"axes": [2, 1]}, [masked_input("none", 0), vector])
    return cases


def attentions() -> dict[str, Any]:
    """Record Attention for masks of query and value, with every option that is not random."""
    cases = {}
    for kinds in PAIRS:
        inputs = [masked_input(kind, i) for i, kind in enumerate(kinds)]
        for scale, mode in ((False, "dot"), (True, "dot"), (True, "concat"), (False, "concat")):
            name = f"Attention-{mode}-{scale}-{'-'.join(kinds)}"
            cases[name] = record("Attention", {"use_scale": scale, "score_mode": mode}, inputs)
    inputs = [masked_input("holes", 0), masked_input("right", 1, STEPS - 1), masked_input("none", 2, STEPS - 1)]
    cases["Attention-key"] = record("Attention", {"use_scale": True}, inputs)
    options = {"use_causal_mask": True, "return_attention_scores": True}
    cases["Attention-causal"] = record("Attention", {}, inputs, **options)
    cases["Attention-causal-none"] = record("Attention", {}, [masked_input("none", i) for i in range(2)], **options)
    return cases


def normalizations() -> dict[str, Any]:
    """Record the normalizations along other axes than the last, and the old scaling by the variance."""
    cases = {}
    plain, deep = masked_input("none", 0), masked_input("none", 0, features=(3, FEATURES))
    held = masked_input("holes", 0, features=(3, FEATURES))
    inputs = {"plain": plain, "deep": deep, "masked": held, "vector": (normal(BATCH, FEATURES), None, None)}
    along = {"plain": (1, [1, 2], [-1, -2]), "deep": ([1, 3], 2), "masked": (2, [2, 3]), "vector": (1,)}
    for kind, axes in along.items():
        for axis in axes:
            name = f"LayerNormalization-axis-{axis}-{kind}".replace(" ", "")
            cases[name] = record("LayerNormalization", {"axis": axis, "epsilon": 0.01}, [inputs[kind]])
    for kind, axis in (("plain", 1), ("plain", -2), ("deep", 1), ("deep", 2), ("deep", -1), ("vector", 1)):
        for training in (False, True):
            name = f"BatchNormalization-axis-{axis}-{kind}-{'training' if training else 'inference'}"
            cases[name] = record("BatchNormalization", {"axis": axis}, [inputs[kind]], training=training)
    for label, config in (("last", {}), ("steps", {"axis": [1, 2]}), ("unscaled", {"scale": False})):
        name = f"LayerNormalization-rms_scaling-{label}"
        cases[name] = record("LayerNormalization", {"rms_scaling": True, **config}, [plain])
    cases["LayerNormalization-rms_scaling-masked"] = record("LayerNormalization", {"rms_scaling": True}, [held])
    return cases


def record_combining() -> dict[str, Any]:
    """Record all of them."""
    cases = merges() | attentions() | normalizations()
    for mask in MASKS:
        x = masked_input(mask, 0)
        cases[f"LayerNormalization-{mask}"] = record("LayerNormalization", {"epsilon": 0.01}, [x])
        for training in (False, True):
            name = f"BatchNormalization-{'training' if training else 'inference'}-{mask}"
            cases[name] = record("BatchNormalization", {"momentum": 0.75}, [x], training=training)
        if mask != "empty":
            cases[f"GlobalAveragePooling1D-{mask}"] = record("GlobalAveragePooling1D", {}, [x])
    plain = masked_input("none", 0)
    cases["BatchNormalization-parts"] = record("BatchNormalization", {"scale": False}, [plain], training=True)
    cases["LayerNormalization-parts"] = record("LayerNormalization", {"center": False}, [plain])
    cases["GlobalAveragePooling1D-keepdims"] = record("GlobalAveragePooling1D", {"keepdims": True}, [plain])
    cases["GlobalMaxPooling1D"] = record("GlobalMaxPooling1D", {}, [plain])
    cases["GlobalMaxPooling1D-keepdims"] = record("GlobalMaxPooling1D", {"keepdims": True}, [plain])
    cases["Reshape"] = record("Reshape", {"target_shape": [-1, 2, 1]}, [plain])
    cases["RepeatVector"] = record("RepeatVector", {"n": 3}, [(normal(BATCH, FEATURES), None, None)])
    return cases
