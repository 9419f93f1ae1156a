# The rows of a packed batch that a run has, and where their states stand.

cdef struct Shard:
    # Rows begin to end of a packed batch. Token (t, row) stands at offsets[t] + row.
    Py_ssize_t steps, rows, begin, end
    const int64_t *batch_sizes  # [steps]
    const int64_t *offsets      # [steps]


cdef inline Py_ssize_t active_rows(const Shard *s, Py_ssize_t t) noexcept nogil:
    cdef Py_ssize_t n
    if t >= s.steps:
        return 0
    n = min(<Py_ssize_t>s.batch_sizes[t], s.end) - s.begin
    return n if n > 0 else 0


# A state buffer holds either every step, [rows + tokens, units] with the initial state first, or two
# halves [2 * rows, units] that steps read and write in turn.

cdef inline Py_ssize_t state_before(const Shard *s, bint every_step, Py_ssize_t t) noexcept nogil:
    if not every_step:
        return (t & 1) * s.rows + s.begin
    return s.begin if t == 0 else s.rows + s.offsets[t - 1] + s.begin


cdef inline Py_ssize_t state_after(const Shard *s, bint every_step, Py_ssize_t t) noexcept nogil:
    if not every_step:
        return (1 - (t & 1)) * s.rows + s.begin
    return s.rows + s.offsets[t] + s.begin
