"""Loops over the cells of recurrent layers, with and without masks, and loops that are something else."""

import numpy as np
import pytest
from helpers.onnx_graphs import INT, B, F, graph, kinds, model, random

from fastmask import optimizers
from fastmask.convert.onnx.running import run_graph

FEATURES, UNITS = 3, 4
X, MASK = ("x", F, ("batch", "time", FEATURES)), ("m", B, ("batch", "time"))
TABLE = random(10, FEATURES, seed=9)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def cell(kind, x="x_t", h="h", c="c"):
    """Return the nodes of one step, which make h_new and c_new."""
    product = [("MatMul", f"{x} kernel", "xw"), ("MatMul", f"{h} recurrent", "hr")]
    if kind == "rnn":
        return [*product, ("Add", "xw hr", "s"), ("Add", "s bias", "b"), ("Tanh", "b", "h_new")]
    if kind == "lstm":
        return [
            *product, ("Add", "xw hr", "s"), ("Add", "s bias", "b"), ("Split", "b", "i0 f0 g0 o0", {"axis": 1}),
            ("Sigmoid", "i0", "i"), ("Sigmoid", "f0", "f"), ("Tanh", "g0", "g"), ("Sigmoid", "o0", "o"),
            ("Mul", f"f {c}", "fc"), ("Mul", "i g", "ig"), ("Add", "fc ig", "c_new"), ("Tanh", "c_new", "tc"),
            ("Mul", "o tc", "h_new"),
        ]  # fmt: skip
    return [
        *product, ("Split", "bias", "b0 b1", {"axis": 0}), ("Add", "xw b0", "xb"), ("Add", "hr b1", "hb"),
        ("Split", "xb", "xz xr xh", {"axis": 1}), ("Split", "hb", "hz hrr hh", {"axis": 1}),
        ("Add", "xz hz", "z0"), ("Sigmoid", "z0", "z"), ("Add", "xr hrr", "r0"), ("Sigmoid", "r0", "r"),
        ("Mul", "r hh", "rh"), ("Add", "xh rh", "g0"), ("Tanh", "g0", "g"), ("Sub", f"{h} g", "d"),
        ("Mul", "z d", "zd"), ("Add", "g zd", "h_new"),
    ]  # fmt: skip


def select(new, old, result):
    return [("Where", f"m_t {new} {old}", result)]


def loop(kind, masked, last=False, change=None, start=False):
    """Return the arguments of a graph of a Loop over x (B, T, F): its outputs (B, T, H), or the last state."""
    gates, states = GATES[kind], ["h", "c"] if kind == "lstm" else ["h"]
    carried = ["out", *states] if masked else states
    body = [("Gather", "time_first t", "x_t", {"axis": 0}), *cell(kind)]
    if masked:
        body += [("Gather", "mask_first t", "m_t", {"axis": 0}), *select("h_new", "out", "out_next")]
        for state in states:
            body += select(f"{state}_new", state, f"{state}_next")
    else:
        body += [("Identity", f"{state}_new", f"{state}_next") for state in states]
    body += [("Identity", "out_next" if masked else "h_next", "step"), ("Identity", "going", "go")]
    body = change(body) if change else body
    inner = graph([("t", INT, ()), ("going", B, ()), *[(name, F, None) for name in carried]],
                  " ".join(["go", *[f"{name}_next" for name in carried], "step"]), body)  # fmt: skip
    nodes = [
        ("Transpose", "x", "time_first", {"perm": [1, 0, 2]}), ("Shape", "x", "shape"),
        ("Gather", "shape one", "steps", {"axis": 0}), ("Gather", "shape lead", "rows", {"axis": 0}),
        ("Concat", "rows units", "hshape", {"axis": 0}), ("ConstantOfShape", "hshape", "zeros"),
    ]  # fmt: skip
    if masked:
        nodes += [("Transpose", "m", "mt", {"perm": [1, 0]}), ("Unsqueeze", "mt minus", "mask_first")]
    initial = " ".join("h0" if start and name == "h" else "zeros" for name in carried)
    finals = [f"{name}_last" for name in carried]
    nodes += [("Loop", f"steps yes {initial}", " ".join([*finals, "all"]), {"body": inner})]
    nodes += [("Transpose", "all", "y", {"perm": [1, 0, 2]})]
    bias = random(2, 3 * UNITS, seed=3) if kind == "gru" else random(gates * UNITS, seed=3)
    constants = {
        "kernel": random(FEATURES, gates * UNITS, seed=1), "recurrent": random(UNITS, gates * UNITS, seed=2),
        "bias": bias, "one": np.array(1), "lead": np.array([0]), "units": np.array([UNITS]), "yes": np.array(True),
        "minus": np.array([-1]),
    }  # fmt: skip
    inputs = [X, *([MASK] if masked else []), *([("h0", F, ("batch", UNITS))] if start else [])]
    return inputs, (f"{states[-1]}_last" if last else "y"), nodes, constants


def batch(rows, steps, masked):
    x = random(rows, steps, FEATURES)
    mask = np.random.default_rng(steps).random((rows, steps)) < 0.6
    mask[0] = False
    return [x, mask] if masked else [x]


def assert_same(arguments, masked, wanted):
    found = model(*arguments)
    assert wanted in kinds(found)
    assert ("Loop" in kinds(found)) == (wanted == "Loop")
    for size in ((3, 5), (1, 1), (2, 9)):
        given = batch(*size, masked)
        expected = run_graph(graph(*arguments), given, {})[0]
        np.testing.assert_allclose(found(given if masked else given[0]), expected, rtol=1e-5, atol=1e-5)
    return found


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("kind", "layer"), [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "SimpleRNN")])
def test_loops_without_masks_are_layers(kind, layer, last):
    arguments = loop(kind, masked=False, last=last)
    assert_same(arguments, False, "Recurrence" if last and kind == "lstm" else layer)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_loops_with_masks_are_layers_that_repeat_outputs(kind, last):
    found = assert_same(loop(kind, masked=True, last=last), True, "Recurrence")
    x, mask = batch(3, 6, True)
    x2 = np.where(mask[..., None], x, np.float32(np.nan))
    np.testing.assert_array_equal(found([x, mask]), found([x2, mask]))


def from_ids(kind, last=False, length="time"):
    """Return the arguments of a masked loop over an embedding of ids, whose mask is where these are not 0."""
    _, outputs, nodes, constants = loop(kind, masked=True, last=last)
    nodes = [("Gather", "table ids", "x"), ("Equal", "ids pad", "eq"), ("Not", "eq", "m"), *nodes]
    return [("ids", INT, ("batch", length))], outputs, nodes, constants | {"table": TABLE, "pad": np.array(0)}


@pytest.mark.parametrize("length", ["time", 6])
@pytest.mark.parametrize(("kind", "layer"), [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "SimpleRNN")])
def test_masks_of_ids_are_made_by_the_embedding(kind, layer, length):
    arguments = from_ids(kind, length=length)
    found = model(*arguments)
    assert kinds(found) == sorted(["WrappingEmbedding", layer])
    for rows in (1, 3, 8):
        ids = np.random.default_rng(rows).integers(0, 3, (rows, 6))
        expected = run_graph(graph(*arguments), [ids], {})[0]
        np.testing.assert_allclose(found(ids), expected, rtol=1e-5, atol=1e-6)


def test_values_that_are_read_otherwise_too_keep_the_mask_of_the_graph():
    inputs, _, nodes, constants = from_ids("gru")
    nodes += [("ReduceMax", "x", "top", {"axes": [1]}), ("Add", "y offset", "z")]
    arguments = inputs, "z top", nodes, constants | {"offset": random(UNITS)}
    found = model(*arguments)
    assert "Recurrence" in kinds(found)
    ids = np.random.default_rng(0).integers(0, 3, (3, 6))
    for y, expected in zip(found(ids), run_graph(graph(*arguments), [ids], {}), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_initial_states_reach_the_layer():
    arguments = loop("gru", masked=False, start=True)
    found = model(*arguments)
    assert "Loop" not in kinds(found)
    given = [*batch(3, 5, False), random(3, UNITS, seed=8)]
    np.testing.assert_allclose(found(given), run_graph(graph(*arguments), given, {})[0], rtol=1e-5, atol=1e-5)


def test_loops_that_are_layers_train():
    found = model(*loop("lstm", masked=True))
    found.compile(optimizers.Adam(0.03), "mse")
    x, mask = batch(8, 5, True)
    y = random(8, 5, UNITS, seed=4, scale=0.1)
    losses = found.fit([x, mask], y, epochs=40, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0] * 0.8


def _other(old, new):
    return lambda body: [new if node[:3] == old else node for node in body]


@pytest.mark.parametrize("change", [
    _other(("Tanh", "tc_", "x"), None),
    _other(("Tanh", "c_new", "tc"), ("Sigmoid", "c_new", "tc")),
    _other(("Add", "s bias", "b"), ("Sub", "s bias", "b")),
    _other(("Gather", "time_first t", "x_t"), ("Gather", "time_first zero", "x_t")),
], ids=["same", "sigmoid", "sub", "first"])  # fmt: skip
def test_bodies_that_are_no_cell_run_step_by_step(change, request):
    inputs, outputs, nodes, constants = loop("lstm", masked=False, change=change)
    constants["zero"] = np.array(0)
    same = request.node.callspec.id == "same"
    assert_same((inputs, outputs, nodes, constants), False, "LSTM" if same else "Loop")


def test_a_loop_over_fewer_steps_is_no_layer():
    inputs, outputs, nodes, constants = loop("rnn", masked=False)
    nodes = [("Div" if node[1].startswith("steps") else node[0], *node[1:]) for node in nodes]
    nodes = [node if node[0] != "Div" else ("Loop", *node[1:]) for node in nodes]
    index = next(i for i, node in enumerate(nodes) if node[0] == "Loop")
    loop_node = nodes[index]
    nodes.insert(index, ("Min", "steps three", "fewer"))
    nodes[index + 1] = (loop_node[0], loop_node[1].replace("steps", "fewer"), *loop_node[2:])
    assert_same((inputs, outputs, nodes, constants | {"three": np.array(3)}), False, "Loop")


def test_training_through_a_loop_that_is_no_layer_names_it():
    change = _other(("Tanh", "c_new", "tc"), ("Sigmoid", "c_new", "tc"))
    _, outputs, nodes, constants = loop("lstm", masked=False, change=change)
    nodes.insert(0, ("MatMul", "x0 mix", "x"))
    found = model([("x0", *X[1:])], outputs, nodes, constants | {"mix": random(FEATURES, FEATURES)})
    found.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match=r"\(Loop\): expected an operator with a gradient"):
        found.train_on_batch(random(2, 4, FEATURES), random(2, 4, UNITS))


def test_an_endless_loop_is_read():
    inner = graph([("t", INT, ()), ("going", B, ()), ("s", F, None)], "go s_next",
                  [("Identity", "going", "go"), ("Mul", "s s", "s_next")])  # fmt: skip
    found = model([("x", F, (None, 3))], "y", [("Loop", "_ yes x", "y", {"body": inner})], {"yes": np.array(True)})
    assert kinds(found) == ["Loop"]


def test_if_runs_the_branch_of_its_condition():
    branches = {
        f"{name}_branch": graph([], "z", [(op, "x", "z")]) for name, op in (("then", "Neg"), ("else", "Abs"))
    }  # fmt: skip
    nodes = [("ReduceSum", "x", "s", {"keepdims": 0}), ("Greater", "s zero", "c"), ("If", "c", "y", branches)]
    found = model([("x", F, (None, 3))], "y", nodes, {"zero": np.array(0, np.float32)})
    x = np.abs(random(2, 3))
    np.testing.assert_array_equal(found(x), -x)
    np.testing.assert_array_equal(found(-x), x)


def test_scan_of_a_cell_is_a_layer():
    body = graph([("h", F, None), ("x_t", F, None)], "h_new step", [*cell("rnn"), ("Identity", "h_new", "step")])
    _, _, nodes, constants = loop("rnn", masked=False)
    nodes = [*nodes[:-2], ("Scan", "zeros time_first", "h_last all", {"body": body, "num_scan_inputs": 1}), nodes[-1]]
    found = model([X], "y", nodes, constants)
    assert kinds(found) == ["SimpleRNN"]
    x = random(2, 4, FEATURES)
    expected = run_graph(graph([X], "y", nodes, constants), [x], {})[0]
    np.testing.assert_allclose(found(x), expected, rtol=1e-5, atol=1e-6)
