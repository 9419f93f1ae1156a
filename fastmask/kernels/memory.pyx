"""Memory that arrays give back when they end."""

cimport cython


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
    size : int
        Bytes of the block.
    block : tuple
        The memory, and the address where the array begins.
    free : dict
        Lists of free blocks by size; one for `size` is there.
    large, limit : int
        Blocks of `large` bytes and more are given back as long as free ones have at most `limit` bytes in all.
    shape : tuple of int
    typestr : str
        As in NumPy's array interface.
    """

    cdef readonly object __array_interface__
    cdef object block
    cdef dict free
    cdef Py_ssize_t size, large, limit

    def __init__(self, Py_ssize_t size, tuple block, dict free, Py_ssize_t large, Py_ssize_t limit, tuple shape,
                 str typestr):
        self.size = size
        self.block = block
        self.large = large
        self.limit = limit
        self.free = free
        self.__array_interface__ = {"data": (block[1], False), "shape": shape, "typestr": typestr, "version": 3}

    def __dealloc__(self):
        if self.free is None:
            return
        if self.size < self.large or self.size + bytes_of_large(self.free, self.large) <= self.limit:
            self.free[self.size].append(self.block)
