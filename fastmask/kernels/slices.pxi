# Slices of units: where rows are too few to give each thread some, threads share the units of every step, so that
# each meets a part of the weights that stays in its own cache (Zhang et al., DeepCPU, USENIX ATC 2018).
#
# A run goes through phases (steps, and products of blocks of inputs), each of as many parts as there are threads. A
# thread takes the part that its cache knows, then those that nobody has taken, and waits for parts that others are
# at: never for a thread that has not come, nor for the interpreter.

cdef extern from "atomic.h":
    void fastmask_yield() nogil
    void fastmask_pause() nogil
    double fastmask_seconds() nogil
    int64_t fastmask_load(const int64_t *value) nogil
    void fastmask_store(int64_t *value, int64_t n) nogil
    bint fastmask_claim(int64_t *value, int64_t n) nogil

cdef enum:
    MARK_STEP = 16          # numbers from one mark to the next: two cache lines, which are fetched in pairs
    LOOKS = 256             # looks at a mark before another thread gets this CPU, about 10 microseconds
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


cdef bint next_part(Slices *s, int *part) noexcept nogil:
    # Take a part of this phase; `part` is the one before, -1 at first. False: all have ended, and the phase is over.
    cdef int k
    if s.parts == 1:
        part[0] = part[0] + 1
        return part[0] == 0
    if part[0] >= 0:
        fastmask_store(s.marks + part[0] * MARK_STEP, 2 * s.phase + 2)
    for k in range(s.parts):
        part[0] = (s.own + k) % s.parts
        if fastmask_claim(s.marks + part[0] * MARK_STEP, 2 * s.phase):
            return True
    s.phase = s.phase + 1
    for k in range(s.parts):
        await_mark(s, s.marks + k * MARK_STEP)
    return False


cdef void await_mark(const Slices *s, const int64_t *mark) noexcept nogil:
    cdef double now, end = 0.0
    cdef int looks = 0
    while fastmask_load(mark) < 2 * s.phase:
        looks = looks + 1
        if looks < LOOKS:
            fastmask_pause()
            continue
        looks = 0
        fastmask_yield()
        now = fastmask_seconds()
        if end == 0.0:
            end = now + s.patience
        elif now > end:
            fastmask_store(&crowded_until, <int64_t>(1e3 * now) + CROWDED)


cdef inline Py_ssize_t part_begin(const Slices *s, Py_ssize_t columns, int part) noexcept nogil:
    # The first column of a part; parts are whole panels, and the one behind the last begins where the columns end.
    cdef Py_ssize_t panel = WIDTH * LANES
    return min(columns, (columns + panel - 1) // panel * part // s.parts * panel)
