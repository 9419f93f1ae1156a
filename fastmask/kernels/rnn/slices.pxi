# Slices of units: where rows are too few to give each thread some, threads share the units of every step, so that
# each meets a part of the weights that stays in its own cache (Zhang et al., DeepCPU, USENIX ATC 2018).
#
# A run goes through phases (steps, and products of blocks of inputs), each of as many parts as there are threads. A
# thread takes the part that its cache knows, then those that nobody has taken, and waits for parts that others are
# at: never for a thread that has not come, nor for the interpreter. A run without a team has one part.
#
# The panels of a part are met upwards and downwards in turn: a step begins with the weights that the last one ended
# with, which are still in the cache where not all fit. An LSTM of 512 units on one row: 14 ms, and 19 always upwards.

from libc.stdint cimport INT64_MAX

cdef enum:
    MARK_STEP = 16          # numbers from one mark to the next: two cache lines, which come in pairs
    CROWDED = 20            # milliseconds: for so long after a thread has lost its CPU, another loss is likely

cdef int64_t crowded_until = 0      # milliseconds


def is_crowded():
    """Whether a thread of a team has lately waited in vain for another."""
    return 1e3 * fastmask_seconds() < fastmask_load(&crowded_until)


cdef class Team:
    """The threads of one run whose steps are shared out by units.

    There is a mark for each part: twice the phases that have ended, and 1 while a thread has the next. To wait for
    `patience` seconds means that another thread has lost its CPU.
    """

    cdef int parts
    cdef double patience
    cdef int64_t *marks         # [parts]

    def __cinit__(self, int parts, double patience):
        self.parts = parts
        self.patience = patience
        self.marks = <int64_t *>calloc(parts * MARK_STEP, sizeof(int64_t))
        if self.marks == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.marks)


cdef struct Slices:
    int parts, own              # one part: no team
    double patience
    int64_t *marks
    int64_t phase               # that this thread has come to
    int part                    # that this thread is at, or -1
    bint downwards              # the order of panels
    Py_ssize_t first, last      # panels of that part that are left


cdef bint next_panel(Slices *s, Py_ssize_t columns, Columns *taken) noexcept nogil:
    # Take the columns of a panel of this phase. False: all have ended, and the phase is over.
    cdef Py_ssize_t panels = (columns + WIDTH * LANES - 1) // (WIDTH * LANES)
    cdef Py_ssize_t k, following
    while s.first == s.last:
        if not take_part(s):
            s.part = -1
            s.phase = s.phase + 1
            return False
        s.first = panels * s.part // s.parts
        s.last = panels * (s.part + 1) // s.parts
    if s.downwards:
        s.last = k = s.last - 1
        following = max(k - 1, s.first)
    else:
        k = s.first
        s.first = k + 1
        following = min(k + 1, s.last - 1)
    taken.begin = k * WIDTH * LANES
    taken.end = min(columns, taken.begin + WIDTH * LANES)
    taken.following = following * WIDTH * LANES
    return True


cdef inline bint take_part(Slices *s) noexcept nogil:
    # False: all parts of this phase have ended.
    cdef int k
    if s.parts == 1:
        s.part = s.part + 1
        return s.part == 0
    if s.part >= 0:
        fastmask_store(s.marks + s.part * MARK_STEP, 2 * s.phase + 2)
    for k in range(s.parts):
        s.part = (s.own + k) % s.parts
        if fastmask_claim(s.marks + s.part * MARK_STEP, 2 * s.phase):
            return True
    for k in range(s.parts):
        while not watch(s.marks + k * MARK_STEP, 2 * s.phase + 2, INT64_MAX, s.patience):
            fastmask_store(&crowded_until, <int64_t>(1e3 * fastmask_seconds()) + CROWDED)
    return False
