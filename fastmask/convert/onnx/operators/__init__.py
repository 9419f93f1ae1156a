"""The operators by their names, each a function on arrays."""

from fastmask.convert.onnx.operators.base import Operator
from fastmask.convert.onnx.operators.control import SEQUENCES
from fastmask.convert.onnx.operators.elementwise import ELEMENTWISE
from fastmask.convert.onnx.operators.picking import PICKING
from fastmask.convert.onnx.operators.products import PRODUCTS
from fastmask.convert.onnx.operators.recurrent import RECURRENT
from fastmask.convert.onnx.operators.reducing import REDUCING
from fastmask.convert.onnx.operators.shaping import SHAPING

OPERATORS: dict[str, Operator] = {
    **ELEMENTWISE, **SHAPING, **PICKING, **REDUCING, **PRODUCTS, **RECURRENT, **SEQUENCES,
}  # fmt: skip
CONTROL = ("Loop", "Scan", "If")

__all__ = ["CONTROL", "OPERATORS", "Operator"]
