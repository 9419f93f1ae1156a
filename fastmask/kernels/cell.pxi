# One step of a few rows. The weights are read once for each row, so they are taken as they lie: packing them
# would cost more than the step.

cdef void row_product(const real *x, Py_ssize_t depth, const real *matrix, Py_ssize_t columns, const real *start,
                      real *out) noexcept nogil:
    # out = start (or zeros) + x @ matrix [depth, columns], each sum in the order of the other products
    cdef Py_ssize_t column = 0
    while column + PANELS * WIDTH * LANES <= columns:
        row_vectors(PANELS * WIDTH, x, depth, matrix, columns, start, out, column)
        column = column + PANELS * WIDTH * LANES
    while column + LANES <= columns:
        row_vectors(1, x, depth, matrix, columns, start, out, column)
        column = column + LANES
    if column < columns:
        row_tail(x, depth, matrix, columns, start, out, column)


cdef inline void row_vectors(const int count, const real *x, Py_ssize_t depth, const real *matrix,
                             Py_ssize_t columns, const real *start, real *out, Py_ssize_t column) noexcept nogil:
    cdef vec a[PANELS * WIDTH]
    cdef vec xk
    cdef const real *source = matrix + column
    cdef Py_ssize_t k
    cdef int n
    for n in range(count):
        a[n] = v_set1(0.0) if start == NULL else v_load(start + column + n * LANES)
    for k in range(depth):
        xk = v_set1(x[k])
        for n in range(count):
            a[n] = v_fma(xk, v_load(source + n * LANES), a[n])
        source = source + columns
    for n in range(count):
        v_store(out + column + n * LANES, a[n])


cdef void row_tail(const real *x, Py_ssize_t depth, const real *matrix, Py_ssize_t columns, const real *start,
                   real *out, Py_ssize_t column) noexcept nogil:
    cdef int n = lanes_left(columns, column)
    cdef vec a = v_set1(0.0) if start == NULL else load(start + column, n)
    cdef Py_ssize_t k
    for k in range(depth):
        a = v_fma(v_set1(x[k]), load(matrix + k * columns + column, n), a)
    store(out + column, a, n)


def simple_rnn_cell(const real[:, ::1] x, const real[:, ::1] kernel, const real[:, ::1] recurrent_kernel,
                    const real[::1] bias, const real[:, ::1] h, int activation, real[::1] scratch,
                    real[:, ::1] h_next):
    """One step of a SimpleRNN. h of None: zeros. scratch: [units]."""
    cdef uint64_t mode
    cdef Py_ssize_t row, unit, units = recurrent_kernel.shape[0]
    cdef const real *start = &bias[0] if bias is not None else NULL
    cdef real *out
    cdef vec y
    if units == 0:
        return
    mode = flush_denormals()
    for row in range(x.shape[0]):
        out = &h_next[row, 0]
        row_product(&x[row, 0], kernel.shape[0], &kernel[0, 0], units, start, out)
        row_product(&h[row, 0] if h is not None else NULL, units if h is not None else 0, &recurrent_kernel[0, 0],
                    units, NULL, &scratch[0])
        unit = 0
        while unit < units:
            y = load(out + unit, lanes_left(units, unit)) + load(&scratch[unit], lanes_left(units, unit))
            squash(False, activation, 1, &y)
            store(out + unit, y, lanes_left(units, unit))
            unit = unit + LANES
    set_float_mode(mode)


def lstm_cell(const real[:, ::1] x, const real[:, ::1] kernel, const real[:, ::1] recurrent_kernel,
              const real[::1] bias, const real[:, ::1] h, int activation,
              int recurrent_activation, real[:, ::1] scratch, real[:, ::1] h_next, real[:, ::1] c_next):
    """One step of an LSTM; c_next holds c. h of None: zeros. scratch: [2, 4 * units + LANES]."""
    cdef uint64_t mode
    cdef LstmStep s
    cdef Py_ssize_t row, unit, units = recurrent_kernel.shape[0]
    cdef vec z[1][WIDTH]
    cdef int k
    if units == 0:
        return
    mode = flush_denormals()
    s.units = s.padded = units
    s.activation = activation
    s.recurrent_activation = recurrent_activation
    s.gates = NULL
    s.z = &scratch[0, 0]
    s.z_index = NULL
    for row in range(x.shape[0]):
        s.c_previous = s.c = &c_next[row, 0]
        s.h = &h_next[row, 0]
        row_product(&x[row, 0], kernel.shape[0], &kernel[0, 0], 4 * units, &bias[0] if bias is not None else NULL,
                    &scratch[0, 0])
        row_product(&h[row, 0] if h is not None else NULL, units if h is not None else 0, &recurrent_kernel[0, 0],
                    4 * units, NULL, &scratch[1, 0])
        unit = 0
        while unit < units:
            for k in range(4):
                z[0][k] = v_load(&scratch[1, k * units + unit])
            lstm_tile(&s, z, 0, unit, 1)
            unit = unit + LANES
    set_float_mode(mode)


def reset_after_cell(const real[:, ::1] x, const real[:, ::1] kernel, const real[:, ::1] recurrent_kernel,
                     const real[:, ::1] bias, const real[:, ::1] h, int activation, int recurrent_activation,
                     real[:, ::1] scratch, real[:, ::1] h_next):
    """One step of a GRU that resets after the product; h_next holds h. h of None: zeros. scratch: [2, 3 * units]."""
    cdef uint64_t mode
    cdef Py_ssize_t row, unit, units = recurrent_kernel.shape[0]
    cdef real *inputs
    cdef real *products
    cdef real *out
    cdef vec gates[2]           # z, r
    cdef vec n, before
    cdef int k
    if units == 0:
        return
    mode = flush_denormals()
    inputs = &scratch[0, 0]
    products = &scratch[1, 0]
    for row in range(x.shape[0]):
        out = &h_next[row, 0]
        row_product(&x[row, 0], kernel.shape[0], &kernel[0, 0], 3 * units, &bias[0, 0] if bias is not None else NULL,
                    inputs)
        row_product(out, units if h is not None else 0, &recurrent_kernel[0, 0], 3 * units,
                    &bias[1, 0] if bias is not None else NULL, products)
        unit = 0
        while unit < units:
            k = lanes_left(units, unit)
            gates[0] = load(inputs + unit, k) + load(products + unit, k)
            gates[1] = load(inputs + units + unit, k) + load(products + units + unit, k)
            squash(False, recurrent_activation, 2, gates)
            n = v_fma(gates[1], load(products + 2 * units + unit, k), load(inputs + 2 * units + unit, k))
            squash(False, activation, 1, &n)
            before = load(out + unit, k)
            store(out + unit, v_fma(gates[0], before - n, n), k)
            unit = unit + LANES
    set_float_mode(mode)
