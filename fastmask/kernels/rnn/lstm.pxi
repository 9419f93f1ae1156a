# LSTM (Hochreiter and Schmidhuber 1997) with the gates i, f, g, o in Keras's order:
#     c' = f * c + i * g        h' = o * activation(c')

cdef inline void lstm_gates(const bint fused, const bint across, const bint whole, const int count, const Step *s,
                            vec (*z)[WIDTH], Py_ssize_t row, Py_ssize_t unit) noexcept nogil:
    # z, the products of the states, becomes i, f, c', o.
    cdef const real *x
    cdef vec gates[3 * PAIR]    # i, f, o of each cell
    cdef vec g[PAIR]
    cdef int i, n
    cdef Py_ssize_t here
    cdef real *stored
    for i in range(count):
        x = s.z + indexed(s.z_index, cell_row(across, row, i)) * 4 * s.units + cell_unit(across, unit, i)
        n = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        gates[3 * i] = load(x, n) + z[i][0]
        gates[3 * i + 1] = load(x + s.units, n) + z[i][1]
        g[i] = load(x + 2 * s.units, n) + z[i][2]
        gates[3 * i + 2] = load(x + 3 * s.units, n) + z[i][3]
    squash(fused, SIGMOID if fused else s.recurrent_activation, 3 * count, gates)
    squash(fused, TANH if fused else s.activation, count, g)
    for i in range(count):
        n = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        here = cell_row(across, row, i) * s.units + cell_unit(across, unit, i)
        z[i][2] = v_fma(gates[3 * i + 1], load(s.c_previous + here, n), gates[3 * i] * g[i])
        z[i][3] = gates[3 * i + 2]
        store(s.c + here, z[i][2], n)
        if s.gates != NULL:
            stored = s.gates + cell_row(across, row, i) * 4 * s.units + cell_unit(across, unit, i)
            store(stored, gates[3 * i], n)
            store(stored + s.units, gates[3 * i + 1], n)
            store(stored + 2 * s.units, g[i], n)
            store(stored + 3 * s.units, gates[3 * i + 2], n)


cdef inline void lstm_output(const bint fused, const bint across, const bint whole, const int count, const Step *s,
                             vec (*z)[WIDTH], Py_ssize_t row, Py_ssize_t unit) noexcept nogil:
    cdef vec c[PAIR]
    cdef Py_ssize_t here
    cdef int i
    for i in range(count):
        c[i] = z[i][2]
    squash(fused, TANH if fused else s.activation, count, c)
    for i in range(count):
        here = cell_row(across, row, i) * s.units + cell_unit(across, unit, i)
        store(s.h + here, z[i][3] * c[i], cell_lanes(whole, s.units, cell_unit(across, unit, i)))


cdef inline void lstm_cell_backward(const bint fused, const int count, const BackwardStep *s, const vec *dh,
                                    Py_ssize_t token, Py_ssize_t row, Py_ssize_t before, Py_ssize_t after,
                                    Py_ssize_t unit) noexcept nogil:
    # `count` vectors of units of a row
    cdef int act = TANH if fused else s.activation
    cdef int rec = SIGMOID if fused else s.recurrent_activation
    cdef Py_ssize_t units = s.units
    cdef real *gates
    cdef vec squashed[PAIR]
    cdef vec i, f, g, o, dc
    cdef int k, n
    for k in range(count):
        squashed[k] = load(s.c + after * units + unit + k * LANES, lanes_left(units, unit + k * LANES))
    squash(fused, act, count, squashed)
    for k in range(count):
        n = lanes_left(units, unit)
        gates = s.d + token * 4 * units + unit
        i = load(gates, n)
        f = load(gates + units, n)
        g = load(gates + 2 * units, n)
        o = load(gates + 3 * units, n)
        dc = v_fma(dh[k] * o, slope(act, squashed[k]), load(s.dc + row * units + unit, n))
        store(gates, dc * g * slope(rec, i), n)
        store(gates + units, dc * load(s.c + before * units + unit, n) * slope(rec, f), n)
        store(gates + 2 * units, dc * i * slope(act, g), n)
        store(gates + 3 * units, dh[k] * squashed[k] * slope(rec, o), n)
        store(s.dc + row * units + unit, dc * f, n)
        unit = unit + LANES


cdef inline void lstm_cells_backward(const bint fused, const BackwardStep *s, const vec *dh, Py_ssize_t token,
                                     Py_ssize_t row, Py_ssize_t before, Py_ssize_t after, Py_ssize_t unit,
                                     int width) noexcept nogil:
    cdef int j = 0
    while j + PAIR <= width:
        lstm_cell_backward(fused, PAIR, s, dh + j, token, row, before, after, unit + j * LANES)
        j = j + PAIR
    if j < width:
        lstm_cell_backward(fused, 1, s, dh + j, token, row, before, after, unit + j * LANES)
