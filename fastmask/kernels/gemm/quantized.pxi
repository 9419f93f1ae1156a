# Products of quantised rows with quantised matrices, in integers.
#
# A number becomes an integer from -127 to 127 times what one of them stands for, its unit: of a matrix there is a unit
# for each column, of x one for each row. A quantised row is [words + 1]: words of two 16-bit integers, the last one
# filled up with zero, and the unit.

from libc.math cimport NAN

cdef enum:
    LARGEST = 127       # magnitude of an integer


cdef inline Py_ssize_t words_of(Py_ssize_t numbers) noexcept nogil:
    return (numbers + 1) // 2


cdef inline bint find_largest(const real *x, Py_ssize_t columns, real *largest) noexcept nogil:
    # The largest magnitude. False: there is an infinity or NaN.
    cdef vec most = v_set1(0.0), differences = v_set1(0.0), y
    cdef real lanes[LANES]
    cdef Py_ssize_t k = 0
    cdef int i
    while k < columns:
        y = load(x + k, lanes_left(columns, k))
        most = v_max(most, v_abs(y))
        differences = differences + (y - y)
        k = k + LANES
    v_store(lanes, most)
    largest[0] = 0
    for i in range(LANES):
        largest[0] = lanes[i] if lanes[i] > largest[0] else largest[0]
    return sum_of_lanes(differences) == 0


cdef void quantize_row(const real *x, Py_ssize_t columns, bint bounded, real *out) noexcept nogil:
    # bounded: the unit is 1 / 127 for numbers within [-1, 1], so that it does not change from step to step.
    cdef Py_ssize_t k = 0, whole = columns - columns % LANES, words = words_of(columns)
    cdef int16_t *integers = <int16_t *>out
    cdef int16_t rest[LANES]
    cdef real largest
    cdef vec scale
    if not find_largest(x, columns, &largest):
        memset(out, 0, words * sizeof(real))
        out[words] = <real>NAN
        return
    largest = 1 if bounded and largest <= 1 else largest + <real>1e-7
    scale = v_set1(LARGEST / largest)
    while k < whole:
        v_store_shorts(integers + k, v_load(x + k) * scale + v_set1(ROUNDER))
        k = k + LANES
    if k < columns:
        v_store_shorts(rest, load(x + k, lanes_left(columns, k)) * scale + v_set1(ROUNDER))
        memcpy(integers + k, rest, (columns - k) * sizeof(int16_t))
    if columns & 1:
        integers[columns] = 0
    out[words] = largest / LARGEST


cdef void run_integer_tile(int rows, int width, Tile *t) noexcept nogil:
    if not IS_DOUBLE:
        multiply_width(rows, width, BY_ROWS, True, t)


cdef void run_integer_panels(int width, Tile *t) noexcept nogil:
    # One row times PANELS panels
    if not IS_DOUBLE and width == 4:
        multiply(PANELS, 4, PANEL_GROUP, True, t)
    elif not IS_DOUBLE:
        multiply(PANELS, 3, PANEL_GROUP, True, t)


def quantize_rows(const real[:, ::1] x, real[:, ::1] out, Py_ssize_t begin, Py_ssize_t end):
    """Quantise the rows begin to end of x [rows, columns] to out [rows, words + 1]."""
    cdef uint64_t mode
    cdef Py_ssize_t n
    if x.shape[1] == 0 or begin >= end:
        return
    with nogil:
        mode = flush_denormals()
        for n in range(begin, end):
            quantize_row(&x[n, 0], x.shape[1], False, &out[n, 0])
        set_float_mode(mode)
