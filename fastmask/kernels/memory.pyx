"""Aligned memory that calls hand on to each other.

A training step needs the same few megabytes each time. Fresh from the system, their pages would be cleared
and mapped again, which costs a tenth of the time of a small step.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

import numpy as np

cdef enum:
    ALIGNMENT = 64
    SMALLEST = 4096     # smaller arrays are cheaper from NumPy, larger ones than the limit too
    LARGE = 262144
    LIMIT = 268435456
    KEPT = 8

# Lists of free blocks by size. Up to 8 of each size below 256 KiB, and of larger ones 256 MiB in all.
cdef dict small_blocks = {}
cdef dict large_blocks = {}
cdef object empty = np.empty, ndarray = np.ndarray, byte = np.dtype(np.uint8)


cdef Py_ssize_t bytes_of_large():
    cdef Py_ssize_t total = 0
    for size, blocks in list(large_blocks.items()):
        total += <Py_ssize_t>size * len(blocks)
    return total


# Compiled, because an interruption (Ctrl-C) that reaches a __del__ written in Python is lost.
@cython.no_gc_clear
@cython.auto_pickle(False)
@cython.internal
cdef class Lease:
    """A block in use: the base of an array and its views, which gives the block back with the last of them."""

    cdef tuple block            # what keeps it, and its first cache line; None if there is nothing to give back
    cdef list free              # where it goes back to
    cdef size_t address         # of that cache line
    cdef Py_ssize_t needed, size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.address, self.needed, False, flags)

    def __dealloc__(self):
        if self.block is None:
            return
        if len(self.free) < KEPT if self.size < LARGE else self.size + bytes_of_large() <= LIMIT:
            self.free.append(self.block)


cdef tuple new_block(Py_ssize_t size):
    memory = empty(size + ALIGNMENT, byte)
    address = memory.ctypes.data
    return memory, address + -address % ALIGNMENT


cdef Lease take_block(Py_ssize_t needed):
    cdef Lease lease = Lease.__new__(Lease)
    # Four sizes between one power of two and the next: at most a quarter is wasted.
    cdef Py_ssize_t size, step = SMALLEST // 8
    cdef dict blocks
    cdef tuple block
    while needed > 8 * step:
        step = 2 * step
    size = (needed + step - 1) // step * step
    blocks = small_blocks if size < LARGE else large_blocks
    free = blocks.get(size)
    if free is None:
        free = blocks.setdefault(size, [])
    lease.free = free
    try:
        block = lease.free.pop()
    except IndexError:
        block = new_block(size)
    lease.needed = needed
    lease.size = size
    lease.address = block[1]
    lease.block = block
    return lease


cdef double bytes_of(tuple shape, dtype) except? -1:
    cdef double needed = dtype.itemsize
    for length in shape:
        needed = needed * <double>length
    return needed


def aligned_empty(shape, dtype):
    """An uninitialised array; unless it is small, its first element stands at the start of a cache line.

    shape: tuple of int, or int. dtype: np.dtype.
    """
    cdef double needed
    if isinstance(shape, int):
        shape = (shape,)
    needed = bytes_of(shape, dtype)
    if not SMALLEST <= needed <= LIMIT:
        return empty(shape, dtype)
    return ndarray(shape, dtype, take_block(<Py_ssize_t>needed))


def aligned_zeros(shape, dtype):
    """The same, filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array
