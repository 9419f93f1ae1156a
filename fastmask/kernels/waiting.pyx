# Threads that wait for one another for a short time, awake and without the interpreter's lock.

cimport cython
from libc.stdint cimport int64_t

cdef extern from "atomic.h":
    void fastmask_yield() nogil
    void fastmask_pause() nogil
    double fastmask_seconds() nogil
    int64_t fastmask_load(const int64_t *value) nogil
    int64_t fastmask_add(int64_t *value, int64_t n) nogil

cdef enum:
    PAUSES = 32     # about a microsecond between two looks at the clock


cdef bint watch(const int64_t *value, bint positive, double seconds) noexcept nogil:
    # Whether the value became positive, or 0, in that time. Others who want this CPU get it.
    cdef double end = 0.0, now
    cdef int _k
    while True:
        for _k in range(PAUSES):
            if (fastmask_load(value) > 0) == positive:
                return True
            fastmask_pause()
        now = fastmask_seconds()
        if end == 0.0:
            end = now + seconds
        if now >= end:
            return False
        fastmask_yield()


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
            positive = watch(&self.value, True, seconds)
        return positive

    def await_zero(self, double seconds):
        """Return when the number is 0, or after that time; whether it is 0."""
        cdef bint zero
        with nogil:
            zero = watch(&self.value, False, seconds)
        return zero
