# SimpleRNN: h' = activation(z + h @ U), z the input product plus bias.

cdef inline void simple_rnn_cells(const Step *s, vec *sums, Py_ssize_t row, Py_ssize_t unit, int width) noexcept nogil:
    # `width` vectors of units of a row
    cdef Py_ssize_t column
    cdef int j
    activate_sums(s, s.z + indexed(s.z_index, row) * s.units + unit, sums, unit, width)
    for j in range(width):
        column = unit + j * LANES
        store(s.h + row * s.units + column, sums[j], lanes_left(s.units, column))


cdef inline void simple_rnn_cells_backward(const BackwardStep *s, const vec *dh, Py_ssize_t token, Py_ssize_t after,
                                           Py_ssize_t unit, int width) noexcept nogil:
    cdef vec y
    cdef int j, n
    for j in range(width):
        n = lanes_left(s.units, unit)
        y = load(s.h + after * s.units + unit, n)
        store(s.d + token * s.stride + unit, dh[j] * slope(s.activation, y), n)
        unit = unit + LANES
