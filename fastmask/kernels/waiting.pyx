# Threads that wait for one another for a short time, awake and without the interpreter's lock.

cimport cython
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t

include "atomic.pxi"


@cython.final
@cython.auto_pickle(False)
cdef class Counter:
    """A number from 0 on that threads change, and await for a short time without going to sleep."""

    cdef int64_t value

    def add(self, int64_t n):
        """Add ``n``; returns the sum."""
        return fastmask_add(&self.value, n)

    def await_positive(self, double seconds):
        """Return when the number is above 0, or after that time; whether it is above 0."""
        cdef bint positive
        with nogil:
            positive = watch(&self.value, 1, INT64_MAX, seconds)
        return positive

    def await_zero(self, double seconds):
        """Return when the number is 0, or after that time; whether it is 0."""
        cdef bint zero
        with nogil:
            zero = watch(&self.value, INT64_MIN, 0, seconds)
        return zero
