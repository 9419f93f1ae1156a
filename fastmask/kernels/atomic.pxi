# Numbers that several threads read and write, and a short wait for them, awake.

from libc.stdint cimport int64_t

cdef extern from "atomic.h" nogil:
    void fastmask_yield()
    void fastmask_pause()
    double fastmask_seconds()
    int64_t fastmask_load(const int64_t *value)
    void fastmask_store(int64_t *value, int64_t n)
    int64_t fastmask_add(int64_t *value, int64_t n)
    bint fastmask_claim(int64_t *value, int64_t n)

cdef enum:
    PAUSES = 32     # about a microsecond between two looks at the clock


cdef bint watch(const int64_t *value, int64_t least, int64_t most, double seconds) noexcept nogil:
    # Whether the value came to lie between two bounds in that time. Others who want this CPU get it.
    cdef double end = 0.0, now
    cdef int _k
    while True:
        for _k in range(PAUSES):
            if least <= fastmask_load(value) <= most:
                return True
            fastmask_pause()
        now = fastmask_seconds()
        if end == 0.0:
            end = now + seconds
        if now >= end:
            return False
        fastmask_yield()
