"""Memory that arrays give back when they end."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo


cdef Py_ssize_t bytes_of_large(dict free, Py_ssize_t large):
    cdef Py_ssize_t total = 0
    for size, blocks in list(free.items()):
        if size >= large:
            total += <Py_ssize_t>size * len(blocks)
    return total


# Compiled, because an interruption (Ctrl-C) that reaches a __del__ written in Python is lost.
@cython.no_gc_clear
@cython.auto_pickle(False)
cdef class Lease:
    """A block in use: the base of an array and its views, which gives the block back with the last of them.

    Parameters
    ----------
    needed, size : int
        Bytes of the array, and of the block.
    block : tuple
        The memory, and the address where the array begins.
    free : dict
        Lists of free blocks by size; one for `size` is there.
    large, limit : int
        Blocks of `large` bytes and more are given back as long as free ones have at most `limit` bytes in all.
    """

    cdef tuple block
    cdef dict free
    cdef Py_ssize_t needed, size, large, limit
    cdef size_t address

    def __init__(self, Py_ssize_t needed, Py_ssize_t size, tuple block, dict free, Py_ssize_t large, Py_ssize_t limit):
        self.needed = needed
        self.size = size
        self.address = block[1]
        self.block = block
        self.large = large
        self.limit = limit
        self.free = free

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.address, self.needed, False, flags)

    def __dealloc__(self):
        if self.free is None:
            return
        if self.size < self.large or self.size + bytes_of_large(self.free, self.large) <= self.limit:
            self.free[self.size].append(self.block)
