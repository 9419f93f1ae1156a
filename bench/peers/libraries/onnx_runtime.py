"""ONNX Runtime: the operators LSTM, GRU and RNN with ``sequence_lens``, forward only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.peers.data import layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, UnsupportedError
from bench.peers.shapes import GATES, LayerCase, ModelCase, StreamCase

OPERATORS = {"SimpleRNN": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
# Keras has the gates i, f, c, o of an LSTM, ONNX i, o, f, c. Those of a GRU are the same.
ORDER = {"SimpleRNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2)}


def operator_weights(cell: str, weights: list[Array]) -> dict[str, Array]:
    """W (1, GH, F), R (1, GH, H) and B (1, 2GH) of an operator from the weights of Keras."""

    def reordered(weight: Array) -> Array:
        blocks = np.split(weight, GATES[cell], axis=-1)
        return np.concatenate([blocks[n] for n in ORDER[cell]], axis=-1)

    kernel, recurrent, bias = (reordered(weight) for weight in weights)
    biases = bias.reshape(-1) if cell == "GRU" else np.concatenate([bias, np.zeros_like(bias)])
    return {"W": kernel.T[None].copy(), "R": recurrent.T[None].copy(), "B": biases[None]}


def recurrent_node(case: LayerCase | ModelCase | StreamCase, optional: list[str], outputs: list[str]) -> Any:
    """The operator on X (T, B, F); `optional` are the names of sequence_lens, initial_h and initial_c."""
    attributes = {"linear_before_reset": 1} if case.cell == "GRU" else {}
    inputs = ["X", "W", "R", "B", *optional]
    return helper.make_node(OPERATORS[case.cell], inputs, outputs, hidden_size=case.units, **attributes)


def value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def in_int8(model: Any) -> Any:
    """The model as ONNX Runtime's dynamic quantisation makes it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(path)


class OnnxRuntime:
    def __init__(self, threads: int) -> None:
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        # Its threads spin while it works, but leave the cores to the others between two calls.
        self.options.add_session_config_entry("session.force_spinning_stop", "1")

    def session(
        self, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Array], int8: bool = False
    ) -> Any:
        """A session; with int8 quantised dynamically, the weights by columns."""
        initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "case", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if int8:
            model = in_int8(model)
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(model.SerializeToString(), self.options, providers)

    def layer(self, case: LayerCase) -> Run:
        if case.kind != "forward":
            raise UnsupportedError("no gradients")
        if case.mask in ("left", "holed"):
            raise UnsupportedError("no such masks")
        data = layer_data(case)
        masked = data.mask is not None
        node = recurrent_node(case, ["lengths"] if masked else [], ["", "h"])
        inputs = [value("X", TensorProto.FLOAT, ["T", "B", case.units])]
        feed = {"X": np.ascontiguousarray(data.x.swapaxes(0, 1))}
        if data.mask is not None:
            inputs.append(value("lengths", TensorProto.INT32, ["B"]))
            feed["lengths"] = data.mask.sum(1, dtype=np.int32)
        outputs = [value("h", TensorProto.FLOAT, [1, "B", case.units])]
        session = self.session([node], inputs, outputs, operator_weights(case.cell, data.weights))

        def forward() -> Array:
            h: Array = session.run(None, feed)[0]
            return h[0]

        return Run(forward, lambda: {"y": forward()})

    def model(self, case: ModelCase) -> Run:
        if case.kind != "prediction":
            raise UnsupportedError("no gradients")
        data = model_data(case)
        nodes = [
            helper.make_node("Transpose", ["ids"], ["steps"], perm=[1, 0]),
            helper.make_node("Gather", ["table", "steps"], ["X"]),
            recurrent_node(case, ["lengths"], ["", "h"]),
            helper.make_node("Squeeze", ["h", "axis"], ["last"]),
            helper.make_node("Gemm", ["last", "dense_kernel", "dense_bias"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["p"]),
        ]
        inputs = [value("ids", TensorProto.INT64, ["B", "T"]), value("lengths", TensorProto.INT32, ["B"])]
        table, kernel, recurrent, bias, dense_kernel, dense_bias = data.weights
        weights = operator_weights("LSTM", [kernel, recurrent, bias])
        weights |= {"table": table, "dense_kernel": dense_kernel, "dense_bias": dense_bias, "axis": np.array([0])}
        session = self.session(nodes, inputs, [value("p", TensorProto.FLOAT, ["B", 1])], weights)

        def predict() -> Array:
            lengths = np.count_nonzero(data.ids, axis=1).astype(np.int32)
            p: Array = session.run(None, {"ids": data.ids, "lengths": lengths})[0]
            return p

        return Run(predict, lambda: {"y": predict()})

    def stream(self, case: StreamCase) -> Run:
        data = stream_data(case)
        node = recurrent_node(case, ["", "h0", "c0"], ["", "h", "c"])
        state = [1, 1, case.units]
        inputs = [value(name, TensorProto.FLOAT, state) for name in ("X", "h0", "c0")]
        outputs = [value(name, TensorProto.FLOAT, state) for name in ("h", "c")]
        session = self.session([node], inputs, outputs, operator_weights("LSTM", data.weights))
        kept = [np.zeros((1, 1, case.units), np.float32)] * 2

        def step(n: int = 0) -> Array:
            kept[:] = session.run(None, {"X": data.x[n], "h0": kept[0], "c0": kept[1]})
            return kept[0][0]

        return Run(step, lambda: {"y": np.concatenate([step(n) for n in range(len(data.x))])})


def start(threads: int, variant: str) -> OnnxRuntime:
    return OnnxRuntime(threads)
