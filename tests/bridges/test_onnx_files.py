"""Models of ONNX files beside ONNX Runtime, and files that are not what they say."""

import contextlib
import os
import tracemalloc

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import fastmask as fm  # noqa: E402
from fastmask.core.errors import FileFormatError  # noqa: E402

from_onnx = fm.convert.from_onnx


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def made(nodes, inputs, outputs, constants=(), opset=17, domains=()):
    """Return a model; inputs and outputs are (name, type, shape), nodes (op, inputs, outputs, attributes)."""
    nodes = [helper.make_node(op, given, found, **dict(*more)) for op, given, found, *more in nodes]
    values = [[helper.make_tensor_value_info(*entry) for entry in part] for part in (inputs, outputs)]
    initializers = [tensor(name, array) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "graph", *values, initializers)
    imports = [helper.make_opsetid("", opset), *[helper.make_opsetid(name, 1) for name in domains]]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tagger(directions=2, units=4, opset=17):
    """Return an Embedding, an LSTM and a softmax over ids (B, T)."""
    constants = {
        "table": random(20, 6), "W": random(directions, 4 * units, 6), "R": random(directions, 4 * units, units),
        "B": random(directions, 8 * units), "flat": np.array([0, 0, -1]), "kernel": random(directions * units, 3),
        "bias": random(3),
    }  # fmt: skip
    nodes = [
        ("Gather", ["table", "ids"], ["e"]), ("Transpose", ["e"], ["x"], {"perm": [1, 0, 2]}),
        ("LSTM", ["x", "W", "R", "B"], ["y"],
         {"hidden_size": units, "direction": "bidirectional" if directions == 2 else "forward"}),
        ("Transpose", ["y"], ["t"], {"perm": [2, 0, 1, 3]}), ("Reshape", ["t", "flat"], ["s"]),
        ("MatMul", ["s", "kernel"], ["m"]), ("Add", ["m", "bias"], ["z"]), ("Softmax", ["z"], ["p"], {"axis": 2}),
    ]  # fmt: skip
    inputs = [("ids", TensorProto.INT64, ["batch", "time"])]
    return made(nodes, inputs, [("p", TensorProto.FLOAT, ["batch", "time", 3])], constants, opset)


def run(model, *arrays):
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), arrays, strict=True)})


def ids(rows=3, steps=5):
    return np.random.default_rng(steps).integers(0, 20, (rows, steps))


class TestModels:
    @pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
    @pytest.mark.parametrize("directions", [1, 2])
    def test_tagger_is_layers_with_the_numbers_of_onnx_runtime(self, directions, opset):
        proto = tagger(directions, opset=opset)
        model = from_onnx(proto)
        kinds = [type(layer).__name__ for layer in model.layers[1:]]
        if opset >= 13:
            assert kinds == ["WrappingEmbedding", "LSTM" if directions == 1 else "Bidirectional", "Dense"]
        for size in ((1, 1), (3, 5), (40, 7)):
            np.testing.assert_allclose(model.predict(ids(*size)), run(proto, ids(*size))[0], rtol=1e-4, atol=1e-6)

    def test_sequences_without_padding_are_predicted_as_alone(self):
        model = from_onnx(tagger())
        rows = [ids(1, n)[0] for n in (3, 7, 1)]
        for row, y in zip(rows, model.predict(rows), strict=True):
            np.testing.assert_allclose(y, model(row[None])[0], rtol=1e-5, atol=1e-6)

    def test_it_trains(self):
        model = from_onnx(tagger())
        model.compile(fm.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
        x = ids(64, 6)
        losses = model.fit(x, x % 3, epochs=25, batch_size=16, shuffle=False, verbose=0).history["loss"]
        assert losses[-1] < losses[0] / 2

    @pytest.mark.parametrize("source", ["path", "str", "bytes", "proto", "load_model"])
    def test_sources(self, source, tmp_path):
        proto, path = tagger(), tmp_path / "m.onnx"
        onnx.save(proto, path)
        read = fm.models.load_model if source == "load_model" else from_onnx
        given = {"path": path, "str": str(path), "bytes": path.read_bytes(), "proto": proto, "load_model": path}
        np.testing.assert_array_equal(read(given[source])(ids()), from_onnx(proto)(ids()))

    def test_other_sources_are_an_error(self):
        with pytest.raises(TypeError, match=r"source: expected a path, bytes or an onnx.ModelProto, got int"):
            from_onnx(3)
        with pytest.raises(FileNotFoundError):
            from_onnx("there is none.onnx")

    def test_quantised_lstm_becomes_float32_and_says_so(self, tmp_path):
        from onnxruntime.quantization import quantize_dynamic

        onnx.save(tagger(), tmp_path / "m.onnx")
        quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
        with pytest.warns(UserWarning, match="int8 weights of a DynamicQuantizeLSTM become float32"):
            model = from_onnx(tmp_path / "q.onnx")
        assert "Bidirectional" in {type(layer).__name__ for layer in model.layers}
        expected = run(onnx.load(tmp_path / "q.onnx"), ids())[0]
        np.testing.assert_allclose(model(ids()), expected, atol=0.1)

    @pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
    def test_rows_of_length_zero(self, op):
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
        constants = {"W": random(1, gates * 4, 3), "R": random(1, gates * 4, 4), "B": random(1, gates * 8)}
        inputs = [("x", TensorProto.FLOAT, ["t", "b", 3]), ("n", TensorProto.INT32, ["b"])]
        outputs = [("y", TensorProto.FLOAT, ["t", 1, "b", 4]), ("h", TensorProto.FLOAT, [1, "b", 4])]
        proto = made([(op, ["x", "W", "R", "B", "n"], ["y", "h"], {"hidden_size": 4})], inputs, outputs, constants)
        arrays = random(5, 3, 3), np.array([0, 5, 2], np.int32)
        for actual, expected in zip(from_onnx(proto)(list(arrays)), run(proto, *arrays), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def _node_cases():
    from onnx.backend.test.case.node import collect_testcases

    from fastmask.convert.onnx.operators import CONTROL, OPERATORS

    known = {*OPERATORS, *CONTROL, "Constant"}
    for case in collect_testcases(None):
        if {node.op_type for node in case.model.graph.node} <= known and not case.name.endswith("_expanded"):
            yield case


# Not there: numbers of 2, 4 and 8 bits, bfloat16, text and optional values, scales of blocks, the Dropout and
# BatchNormalization of training, rounding up in MaxPool and its indices, and the Scan of opset 8.
_BEYOND = (
    "FLOAT8", "INT4", "INT2", "FLOAT4", "FLOAT16_to_FLOAT8", "bfloat16", "BFLOAT16", "string", "_opt", "seq_none",
    "training", "ceil", "with_argmax", "ref_impl_large", "blocked", "e4m3fn", "e5m2", "int4", "int2", "float4e2m1",
    "scan_sum",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_nodes_of_onnx_itself():
    """Every case of onnx's own tests of the operators that are known."""
    counts = dict.fromkeys(("RNN", "GRU", "LSTM", "Loop", "If", "Scan", "Gather", "Softmax"), 0)
    failed, passed = [], 0
    for case in _node_cases():
        if any(part in case.name for part in _BEYOND):
            continue
        try:
            _run_case(case)
        except Exception as error:
            failed.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        passed += 1
        for op in counts.keys() & {node.op_type for node in case.model.graph.node}:
            counts[op] += 1
    assert not failed
    assert passed > 600
    assert min(counts.values()) > 0


def _run_case(case):
    from fastmask.convert.onnx.reader import read
    from fastmask.convert.onnx.running import require_known, run_graph

    def plain(value):
        return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value

    for inputs, outputs in case.data_sets:
        graph, _ = read(case.model)
        require_known(graph)
        found = run_graph(graph, [plain(value) for value in inputs], {})
        for actual, expected in zip(found, map(plain, outputs), strict=True):
            pairs = zip(actual, expected, strict=True) if isinstance(expected, list) else [(actual, expected)]
            for one, other in pairs:
                assert np.asarray(one).dtype == np.asarray(other).dtype
                np.testing.assert_allclose(one, other, rtol=case.rtol, atol=max(case.atol, 1e-6))


class TestExternalData:
    def save(self, folder, name="m.onnx", location="weights.bin"):
        onnx.save(tagger(), folder / name, save_as_external_data=True, location=location, size_threshold=0)
        return folder / name

    def change(self, path, **entries):
        proto = onnx.load(path, load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            entry.value = str(entries.get(entry.key, entry.value))
        path.write_bytes(proto.SerializeToString())

    def test_it_is_read_from_beside_the_file(self, tmp_path):
        path = self.save(tmp_path)
        assert (tmp_path / "weights.bin").exists()
        np.testing.assert_array_equal(from_onnx(path)(ids()), from_onnx(tagger())(ids()))

    @pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "link.bin", "missing.bin", ".", ""])
    def test_files_elsewhere_are_not_read(self, location, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "outside.bin").write_bytes(bytes(1 << 16))
        (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "outside.bin")
        path = self.save(tmp_path / "in")
        self.change(path, location=location)
        with pytest.raises(FileFormatError, match="expected data in a file in"):
            from_onnx(path)

    @pytest.mark.parametrize("entries", [{"offset": 1 << 40}, {"offset": -1}, {"length": 1 << 50}, {"length": 3},
                                         {"offset": "x"}], ids=str)  # fmt: skip
    def test_claims_beyond_the_file_are_an_error(self, entries, tmp_path):
        path = self.save(tmp_path)
        self.change(path, **entries)
        with pytest.raises(FileFormatError):
            from_onnx(path)

    def test_bytes_have_no_folder(self, tmp_path):
        with pytest.raises(FileFormatError, match=r"expected data within bytes, got data in file 'weights\.bin'"):
            from_onnx(self.save(tmp_path).read_bytes())


def _peak_of(action):
    """Return the largest number of bytes that NumPy and Python held, whether the file was read or refused."""
    tracemalloc.start()
    try:
        with contextlib.suppress(FileFormatError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestHostileFiles:
    X = ("x", TensorProto.FLOAT, ["b", 3])
    Y = ("y", TensorProto.FLOAT, ["b", 3])

    def refuse(self, proto, match):
        with pytest.raises(FileFormatError, match=match):
            from_onnx(proto)

    def test_circles(self):
        nodes = [("Add", ["x", "b"], ["a"]), ("Add", ["a", "x"], ["b"]), ("Neg", ["b"], ["y"])]
        self.refuse(made(nodes, [self.X], [self.Y]), "expected inputs that come from nodes before it, got 'b'")

    def test_names_made_twice(self):
        nodes = [("Neg", ["x"], ["a"]), ("Abs", ["x"], ["a"]), ("Neg", ["a"], ["y"])]
        self.refuse(made(nodes, [self.X], [self.Y]), "expected names of its own for its outputs, got 'a' again")

    def test_outputs_that_nothing_makes(self):
        self.refuse(made([("Neg", ["x"], ["a"])], [self.X], [self.Y]), "output 'y': expected one that a node makes")

    @pytest.mark.parametrize("shape", [[1 << 40, 1 << 20], [-1, 3], [4, 4]], ids=str)
    def test_claimed_shapes(self, shape):
        proto = made([("Add", ["x", "c"], ["y"])], [self.X], [self.Y], {"c": random(3)})
        proto.graph.initializer[0].dims[:] = shape
        self.refuse(proto, "tensor 'c': expected")

    @pytest.mark.parametrize("nodes", [
        [("Expand", ["one", "big"], ["e"])],
        [("ConstantOfShape", ["big"], ["e"])],
        [("Tile", ["one", "big"], ["e"])],
        [("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], {"axis": 0}) for i in range(60)] + [("Neg", ["c60"], ["e"])],
        [("Add", [f"c{i}", f"d{i}"], [f"c{i + 1}"]) for i in range(1)] + [("Neg", ["c1"], ["e"])],
    ], ids=["expand", "constant", "tile", "doubling", "outer"])  # fmt: skip
    def test_constants_that_grow_are_not_made(self, nodes):
        constants = {
            "one": np.ones((1, 1), np.float32), "big": np.array([1 << 20, 1 << 20]), "c0": random(3000, 1),
            "d0": random(1, 3000),
        }  # fmt: skip
        proto = made([*nodes, ("Add", ["x", "e"], ["y"])], [self.X], [self.Y], constants)
        peak = _peak_of(lambda: from_onnx(proto))
        assert peak < 100 << 20

    def test_truncated_files(self):
        content = tagger().SerializeToString()
        for end in range(0, len(content) - 1, 97):
            with pytest.raises(FileFormatError):
                from_onnx(content[:end])

    def test_flipped_bits(self):
        content = tagger(1).SerializeToString()
        rng = np.random.default_rng(0)
        for _ in range(300):
            changed = bytearray(content)
            changed[rng.integers(0, len(content))] ^= 1 << rng.integers(0, 8)
            try:
                from_onnx(bytes(changed))
            except FileFormatError:
                continue

    def test_deep_graphs(self):
        inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "g", [], [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])  # fmt: skip
        for depth in range(200):
            node = helper.make_node("If", ["c"], [f"z{depth}"], then_branch=inner, else_branch=inner)
            if node.ByteSize() > 1 << 20:
                break
            inner = helper.make_graph([node], "g", [], [
                helper.make_tensor_value_info(f"z{depth}", TensorProto.FLOAT, None)])  # fmt: skip
        nodes = [("Cast", ["x"], ["c"], {"to": TensorProto.BOOL})]
        proto = made(nodes, [self.X], [self.Y])
        proto.graph.node.extend([*inner.node, helper.make_node("Neg", [inner.output[0].name], ["y"])])
        _peak_of(lambda: from_onnx(proto.SerializeToString()))

    def test_functions_strings_and_unknown_domains(self):
        proto = made([("Neg", ["x"], ["y"])], [self.X], [self.Y])
        proto.functions.add(name="F", domain="d")
        self.refuse(proto, "function 'F': expected a model without functions of its own")
        proto = made([("Thing", ["x"], ["y"], {"domain": "own"})], [self.X], [self.Y], domains=["own"])
        self.refuse(proto, r"\(own\.Thing\): expected an operator that fastmask knows")
        proto = made([("Equal", ["s", "s"], ["y"])], [self.X], [self.Y])
        proto.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"a"]))
        self.refuse(proto, "tensor 's': expected real numbers or bool of NumPy's types")

    def test_no_model_at_all(self, tmp_path):
        path = tmp_path / "m.onnx"
        for content in (b"", b"PK\x03\x04" + bytes(40), os.urandom(999)):
            path.write_bytes(content)
            with pytest.raises(FileFormatError, match=str(path)):
                fm.models.load_model(path)
