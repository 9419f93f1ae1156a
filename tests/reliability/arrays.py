"""Arrays that nobody should give, and arrays that are as good as the plain one but look different."""

import numpy as np
from hypothesis import strategies as st

# Same numbers, other memory: a call must give the same bits.
LAYOUTS = ("fortran", "reversed", "strided", "read only", "byte-swapped", "unaligned", "subclass")

# Other numbers, shapes or types: a call must give the reference's answer or a documented exception.
DAMAGES = ("dtype", "fewer", "more", "empty", "flat", "new axis", "drop axis", "transposed", "special values", "object")

DTYPES = (
    "float16", "float32", "float64", "longdouble", "complex64", "int8", "int32", "int64", "uint64", "bool", "object",
    "str", "bytes", "datetime64[s]", "timedelta64[s]", "f4,i4",
)  # fmt: skip
OBJECTS = (
    None, "text", b"bytes", 3, -1, 2.5, float("nan"), 10**30, True, {}, [], [[]], (), [1, [2, 3]], object(), 1j, len,
    np.float32(1), np.array(None), np.array("a"),
)  # fmt: skip
SPECIAL = (np.nan, np.inf, -np.inf, 1e-45, -1e-310, 3e38, -0.0)


class _Subclass(np.ndarray):
    pass


def relaid(array, layout):
    """The same numbers in other memory."""
    if array.ndim == 0 and layout in ("fortran", "reversed", "strided"):
        return array
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "reversed":
        flip = (slice(None, None, -1),) * array.ndim
        return np.ascontiguousarray(array[flip])[flip]
    if layout == "strided":
        wide = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if layout == "read only":
        copy = array.copy()
        copy.flags.writeable = False
        return copy
    if layout == "byte-swapped":
        return array.astype(array.dtype.newbyteorder())
    if layout == "subclass":
        return array.view(_Subclass)
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _cast(array, dtype):
    with np.errstate(all="ignore"):
        if dtype == "f4,i4":
            return np.zeros(array.shape, dtype)
        if dtype in ("datetime64[s]", "timedelta64[s]"):
            return array.astype(np.int64).astype(dtype)
        return array.astype(dtype)


def _special(data, array):
    copy = array.copy()
    if copy.size and copy.dtype.kind == "f":
        place = data.draw(st.integers(0, copy.size - 1))
        copy.flat[place] = data.draw(st.sampled_from(SPECIAL)).__float__()
    elif copy.size and copy.dtype.kind in "iu":
        limits = np.iinfo(copy.dtype)
        copy.flat[data.draw(st.integers(0, copy.size - 1))] = data.draw(st.sampled_from([limits.min, limits.max, 10]))
    return copy


def damaged(data, array, kind):
    """Something else in the place of an array."""
    if kind == "object" or not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        return data.draw(st.sampled_from(OBJECTS))
    if kind == "dtype":
        return _cast(array, data.draw(st.sampled_from(DTYPES)))
    if kind == "special values":
        with np.errstate(over="ignore"):
            return _special(data, array)
    if kind == "flat":
        return array.reshape(-1)
    if kind == "new axis":
        return np.expand_dims(array, data.draw(st.integers(0, array.ndim)))
    if kind == "transposed" or array.ndim == 0:
        return array.T
    axis = data.draw(st.integers(0, array.ndim - 1))
    if kind == "drop axis":
        return array.take(0, axis) if array.shape[axis] else array.sum(axis)
    if kind == "empty":
        return array.take([], axis)
    if kind == "fewer":
        return array.take(range(array.shape[axis] - 1), axis) if array.shape[axis] else array
    return np.concatenate([array, np.ones_like(array.take([0], axis) if array.shape[axis] else array)], axis)
