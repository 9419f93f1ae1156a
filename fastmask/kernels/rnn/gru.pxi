# GRU (Cho et al. 2014), gates z, r and candidate n, h' = z * h + (1 - z) * n:
#     GRU:               n = activation(x_n + r * (h @ U_n + b_n))     (Keras's default, and cuDNN's)
#     GRU_RESET_BEFORE:  n = activation(x_n + (r * h) @ U_n)
# What is stored for the gradients stands in the order n, z, r and a fourth, which is h @ U_n + b_n or r * h: what
# belongs to the recurrent side, the last three or two, lies side by side.

cdef inline vec gru_state(vec z, vec h, vec n) noexcept nogil:
    return v_fma(z, h - n, n)


cdef inline void gru_gates(const int cell, const bint fused, const bint across, const bint whole, const int count,
                           const Step *s, vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit, vec *gates,
                           vec *n) noexcept nogil:
    # z and r of each cell, and n, if its product is there as well
    cdef const real *x
    cdef int i, k
    for i in range(count):
        x = s.z + indexed(s.z_index, cell_row(across, row, i)) * 3 * s.units + cell_unit(across, unit, i)
        k = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        gates[2 * i] = load(x, k) + sums[i][0]
        gates[2 * i + 1] = load(x + s.units, k) + sums[i][1]
        if cell == GRU:
            n[i] = load(x + 2 * s.units, k)
    squash(fused, SIGMOID if fused else s.recurrent_activation, 2 * count, gates)
    if cell == GRU:
        for i in range(count):
            n[i] = v_fma(gates[2 * i + 1], sums[i][2], n[i])
        squash(fused, TANH if fused else s.activation, count, n)


cdef inline void gru_cell(const int cell, const bint fused, const bint across, const bint whole, const int count,
                          const Step *s, vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit) noexcept nogil:
    # The whole cell, or, of GRU_RESET_BEFORE, z, r and r * h
    cdef vec gates[2 * PAIR]
    cdef vec n[PAIR]
    cdef vec h
    cdef Py_ssize_t here
    cdef real *stored
    cdef int i, k
    gru_gates(cell, fused, across, whole, count, s, sums, row, unit, gates, n)
    for i in range(count):
        k = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        here = cell_row(across, row, i) * s.units + cell_unit(across, unit, i)
        h = load(s.h_previous + here, k)
        if cell == GRU:
            store(s.h + here, gru_state(gates[2 * i], h, n[i]), k)
        if cell == GRU_RESET_BEFORE or s.gates != NULL:
            stored = s.gates + cell_row(across, row, i) * 4 * s.units + cell_unit(across, unit, i)
            if cell == GRU:
                store(stored, n[i], k)
            store(stored + s.units, gates[2 * i], k)
            store(stored + 2 * s.units, gates[2 * i + 1], k)
            if cell == GRU_RESET_BEFORE:
                h = gates[2 * i + 1] * h
                if s.reset_mask != NULL:
                    h = h * load(s.reset_mask + here, k)
            store(stored + 3 * s.units, sums[i][2] if cell == GRU else h, k)


cdef inline void candidate_cells(const Step *s, vec *sums, Py_ssize_t row, Py_ssize_t unit, int width) noexcept nogil:
    # n and h of GRU_RESET_BEFORE: `width` vectors of units of a row
    cdef Py_ssize_t column
    cdef real *gates
    cdef vec h
    cdef int j, k
    activate_sums(s, s.z + (indexed(s.z_index, row) * 3 + 2) * s.units + unit, sums, unit, width)
    for j in range(width):
        column = unit + j * LANES
        k = lanes_left(s.units, column)
        gates = s.gates + row * 4 * s.units + column
        h = load(s.h_previous + row * s.units + column, k)
        store(gates, sums[j], k)
        store(s.h + row * s.units + column, gru_state(load(gates + s.units, k), h, sums[j]), k)


cdef inline void gru_cell_backward(const int cell, const bint fused, const BackwardStep *s, vec dh, Py_ssize_t token,
                                   Py_ssize_t row, Py_ssize_t before, Py_ssize_t unit) noexcept nogil:
    cdef int act = TANH if fused else s.activation
    cdef int rec = SIGMOID if fused else s.recurrent_activation
    cdef Py_ssize_t units = s.units
    cdef int k = lanes_left(units, unit)
    cdef real *gates = s.d + token * 4 * units + unit
    cdef vec n = load(gates, k)
    cdef vec z = load(gates + units, k)
    cdef vec h = load(s.h + before * units + unit, k)
    cdef vec dn = dh * (v_set1(1.0) - z) * slope(act, n)
    cdef vec r
    store(gates, dn, k)
    store(gates + units, dh * (h - n) * slope(rec, z), k)
    store(s.dh + row * units + unit, dh * z, k)
    if cell == GRU:
        r = load(gates + 2 * units, k)
        store(gates + 2 * units, dn * load(gates + 3 * units, k) * slope(rec, r), k)
        store(gates + 3 * units, dn * r, k)


cdef inline void reset_cells_backward(const BackwardStep *s, const vec *dreset, Py_ssize_t token, Py_ssize_t i,
                                      Py_ssize_t unit, int width) noexcept nogil:
    # From the gradient of r * h, of row i of a step of GRU_RESET_BEFORE, to r and h
    cdef real *gates
    cdef real *dh
    cdef vec d, r
    cdef int j, k
    for j in range(width):
        k = lanes_left(s.units, unit)
        gates = s.d + token * 4 * s.units + unit
        dh = s.dh + (s.row + i) * s.units + unit
        d = dreset[j]
        if s.reset_mask != NULL:
            d = d * load(s.reset_mask + i * s.units + unit, k)
        r = load(gates + 2 * s.units, k)
        store(dh, v_fma(d, r, load(dh, k)), k)
        store(gates + 2 * s.units,
              d * load(s.h + (s.before + i) * s.units + unit, k) * slope(s.recurrent_activation, r), k)
        unit = unit + LANES
