# LSTM (Hochreiter and Schmidhuber 1997) with the gates i, f, g, o in Keras's order:
#     c' = f * c + i * g        h' = o * activation(c')

cdef struct LstmStep:
    # One time step over rows of a shard. Gate k of a row stands at k * units.
    Py_ssize_t units, depth             # depth: units, or 0 where nothing is to be multiplied
    int activation, recurrent_activation
    const real *z                       # in   [*, 4 * units]  input products plus bias
    const int64_t *z_index              # in   [rows] or NULL
    bint table                          # z is a table: its rows come from anywhere
    const real *panels                  # in   [units / LANES, rounded up][units][4][LANES]
    const real *h_previous              # in   [rows, units]
    const real *c_previous              # in   [rows, units]
    real *h                             # out  [rows, units]
    real *c                             # out  [rows, units], may be c_previous
    real *gates                         # out  [rows, 4 * units], or NULL in inference


# `count` cells at a time: one vector of units of as many rows, or, `across`, as many vectors of one row.

cdef inline void lstm_gates(const bint fused, const bint across, const bint whole, const int count, const LstmStep *s,
                            vec (*z)[WIDTH], Py_ssize_t row, Py_ssize_t unit) noexcept nogil:
    # z, the products of the states, becomes i, f, c', o.
    cdef const real *x
    cdef vec gates[3 * PAIR]
    cdef vec candidate[PAIR]
    cdef int i, n
    cdef Py_ssize_t here
    cdef real *stored
    for i in range(count):
        x = s.z + place(s.z_index, cell_row(across, row, i)) * 4 * s.units + cell_unit(across, unit, i)
        n = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        gates[3 * i] = load(x, n) + z[i][0]
        gates[3 * i + 1] = load(x + s.units, n) + z[i][1]
        candidate[i] = load(x + 2 * s.units, n) + z[i][2]
        gates[3 * i + 2] = load(x + 3 * s.units, n) + z[i][3]
    squash(fused, SIGMOID if fused else s.recurrent_activation, 3 * count, gates)
    squash(fused, TANH if fused else s.activation, count, candidate)
    for i in range(count):
        n = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        here = cell_row(across, row, i) * s.units + cell_unit(across, unit, i)
        z[i][2] = v_fma(gates[3 * i + 1], load(s.c_previous + here, n), gates[3 * i] * candidate[i])
        z[i][3] = gates[3 * i + 2]
        store(s.c + here, z[i][2], n)
        if s.gates != NULL:
            stored = s.gates + cell_row(across, row, i) * 4 * s.units + cell_unit(across, unit, i)
            store(stored, gates[3 * i], n)
            store(stored + s.units, gates[3 * i + 1], n)
            store(stored + 2 * s.units, candidate[i], n)
            store(stored + 3 * s.units, gates[3 * i + 2], n)


cdef inline void lstm_output(const bint fused, const bint across, const bint whole, const int count, const LstmStep *s,
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


cdef inline void lstm_cells(const bint fused, const bint across, const bint whole, const LstmStep *s, vec (*z)[WIDTH],
                            Py_ssize_t row, Py_ssize_t unit, int count) noexcept nogil:
    # The outputs come last: each waits for all gates of its cell.
    cdef int i = 0
    while i + PAIR <= count:
        lstm_gates(fused, across, whole, PAIR, s, z + i, cell_row(across, row, i), cell_unit(across, unit, i))
        i = i + PAIR
    if i < count:
        lstm_gates(fused, across, whole, 1, s, z + i, cell_row(across, row, i), cell_unit(across, unit, i))
    i = 0
    while i + PAIR <= count:
        lstm_output(fused, across, whole, PAIR, s, z + i, cell_row(across, row, i), cell_unit(across, unit, i))
        i = i + PAIR
    if i < count:
        lstm_output(fused, across, whole, 1, s, z + i, cell_row(across, row, i), cell_unit(across, unit, i))


cdef inline void lstm_tile(const bint across, const LstmStep *s, vec (*z)[WIDTH], Py_ssize_t row, Py_ssize_t unit,
                           int count) noexcept nogil:
    if s.activation != TANH or s.recurrent_activation != SIGMOID:
        lstm_cells(False, across, False, s, z, row, unit, count)
    elif whole_units(across, s.units, unit, count):
        lstm_cells(True, across, True, s, z, row, unit, count)
    else:
        lstm_cells(True, across, False, s, z, row, unit, count)


cdef void lstm_single_row(const LstmStep *s, Tile *t, Py_ssize_t unit) noexcept nogil:
    # PANELS vectors of units of row 0
    t.x[0] = s.h_previous
    run_panels(4, t)
    lstm_tile(True, s, t.sums, 0, unit, PANELS)


cdef void lstm_rows(const LstmStep *s, Tile *t, Py_ssize_t rows, Py_ssize_t unit,
                    const real *following) noexcept nogil:
    # One vector of units of all rows
    cdef Py_ssize_t row = 0
    cdef int i, m
    while row < rows:
        m = even_rows(rows - row)
        for i in range(m):
            t.x[i] = s.h_previous + (row + i) * s.units
        look_ahead(t, following, 4, row)
        if s.table:
            # Predictions of an embedding and an LSTM of 128 units took 6.6 ms without it, and 5.9 ms with it.
            fetch_rows(FIRST_LEVEL, s.z + unit, s.z_index, 4 * s.units, row, row + m, s.units, 4)
        if s.gates != NULL and s.units > NARROW:
            fetch_cells(TO_WRITE, s.gates + row * 4 * s.units + unit, 4, s.units, m, 1)
            fetch_cells(TO_WRITE, s.c + row * s.units + unit, 1, s.units, m, 1)
            fetch_cells(TO_WRITE, s.h + row * s.units + unit, 1, s.units, m, 1)
        run_tile(m, 4, t)
        lstm_tile(False, s, t.sums, row, unit, m)
        row = row + m


cdef void lstm_step(const LstmStep *s, Py_ssize_t rows, const Panel *units) noexcept nogil:
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t unit = units.begin, following, panels, size = s.depth * 4 * LANES
    keep_sums(&t)
    start_from(&zero, &t)
    t.panel = s.panels + unit // LANES * size
    t.depth = s.depth
    while unit < units.end:
        panels = PANELS if rows == 1 and units.end - unit > (PANELS - 1) * LANES else 1
        if panels > 1:
            lstm_single_row(s, &t, unit)
        else:
            following = unit + LANES if unit + LANES < units.end else units.following
            lstm_rows(s, &t, rows, unit, s.panels + following // LANES * size)
        t.panel = t.panel + panels * size
        unit = unit + panels * LANES


def lstm_forward(Recurrence run, const real[::1] panels, real[:, ::1] h, real[:, ::1] c, real[:, ::1] gates,
                 int activation, int recurrent_activation, bint every_step, bint zero_state,
                 RecurrentDropout dropout):
    """Run the steps of a shard; h and c hold the initial states, gates of None is inference."""
    cdef uint64_t mode
    cdef LstmStep s
    cdef Shard *shard = &run.shard
    cdef Inputs *inputs = &run.inputs
    cdef Slices *slices = &run.slices
    cdef bint training = gates is not None
    cdef Panel units
    cdef Py_ssize_t t = 0, block_end, count, before, after, n
    if active_rows(shard, 0) == 0 or h.shape[1] == 0:
        return
    s.units = h.shape[1]
    s.activation = activation
    s.recurrent_activation = recurrent_activation
    s.panels = &panels[0]
    s.gates = NULL
    s.table = inputs.table
    with nogil:
        mode = flush_denormals()
        while active_rows(shard, t) > 0:
            block_end = next_block(inputs, shard, slices, t)
            count = 0
            while t < block_end:
                n = active_rows(shard, t)
                before = state_before(shard, every_step, t)
                after = state_after(shard, every_step, t)
                s.z = inputs.product.out
                s.z_index = inputs.z_index + count
                s.depth = 0 if t == 0 and zero_state else s.units
                s.h_previous = &h[before, 0]
                s.h = &h[after, 0]
                s.c_previous = &c[before, 0] if training else &c[shard.begin, 0]
                s.c = &c[after, 0] if training else &c[shard.begin, 0]
                if training:
                    s.gates = &gates[shard.offsets[t] + shard.begin, 0]
                if dropout is not None and s.depth > 0:
                    copy_rows(s.z, s.z_index, 4 * s.units, n, dropout.z)
                    masked_forward(&dropout.forward, s.h_previous, shard.begin, n, dropout.z)
                    s.z = dropout.z
                    s.z_index = NULL
                    s.depth = 0
                while next_panel(slices, s.units, &units):
                    lstm_step(&s, n, &units)
                count = count + n
                t = t + 1
        set_float_mode(mode)


cdef struct LstmBackward:
    StateGradient state
    int activation, recurrent_activation
    real *gates                 # in: gates, out: gradients of their pre-activations [tokens, 4 * units]
    const real *c               # in   [rows + tokens, units]
    real *dc                    # in/out [rows, units]


cdef inline void lstm_cell_backward(const bint fused, const int count, const LstmBackward *s, const vec *dh,
                                    Py_ssize_t token, Py_ssize_t row, Py_ssize_t before, Py_ssize_t after,
                                    Py_ssize_t unit) noexcept nogil:
    # `count` vectors of units of a row
    cdef int act = TANH if fused else s.activation
    cdef int rec = SIGMOID if fused else s.recurrent_activation
    cdef Py_ssize_t units = s.state.units
    cdef real *gates
    cdef vec squashed[PAIR]
    cdef vec i, f, g, o, dc
    cdef int k, n
    for k in range(count):
        squashed[k] = load(s.c + after * units + unit + k * LANES, lanes_left(units, unit + k * LANES))
    squash(fused, act, count, squashed)
    for k in range(count):
        n = lanes_left(units, unit)
        gates = s.gates + token * 4 * units + unit
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


cdef inline void lstm_cells_backward(const bint fused, const LstmBackward *s, const vec *dh, int width,
                                     Py_ssize_t token, Py_ssize_t row, Py_ssize_t before, Py_ssize_t after,
                                     Py_ssize_t unit) noexcept nogil:
    cdef int j = 0
    while j + PAIR <= width:
        lstm_cell_backward(fused, PAIR, s, dh + j, token, row, before, after, unit + j * LANES)
        j = j + PAIR
    if j < width:
        lstm_cell_backward(fused, 1, s, dh + j, token, row, before, after, unit + j * LANES)


cdef void lstm_step_backward(const LstmBackward *s, const Shard *shard, Py_ssize_t t, Py_ssize_t begin,
                             Py_ssize_t end, bint ends, const Panel *units) noexcept nogil:
    # Some units of rows begin to end (counted from the shard's first) of step t.
    cdef Tile tile
    cdef Py_ssize_t i0 = begin, unit = units.begin, token, row
    cdef Py_ssize_t before = state_before(shard, True, t), after = state_after(shard, True, t)
    cdef Py_ssize_t next_token = 0 if begin == end or ends else shard.offsets[t + 1] + shard.begin
    cdef int i, m, width = panel_width(s.state.units, unit)
    cdef bint fused = s.activation == TANH and s.recurrent_activation == SIGMOID
    keep_sums(&tile)
    tile.depth = s.state.depth
    tile.start_step = LANES
    tile.panel = s.state.panels + unit * s.state.depth
    while i0 < end:
        m = even_rows(end - i0)
        token = shard.offsets[t] + shard.begin + i0
        row = shard.begin + i0
        look_ahead(&tile, s.state.panels + units.following * s.state.depth, width, i0 - begin)
        if s.state.units > NARROW:
            fetch_cells(SECOND_LEVEL, s.gates + token * 4 * s.state.units + unit, 4, s.state.units, m, width)
            fetch_cells(SECOND_LEVEL, s.c + (before + i0) * s.state.units + unit, 1, s.state.units, m, width)
            fetch_cells(SECOND_LEVEL, s.c + (after + i0) * s.state.units + unit, 1, s.state.units, m, width)
        state_gradient(&s.state, &tile, token, next_token + i0, row, unit, m, width, ends)
        for i in range(m):
            if fused:
                lstm_cells_backward(True, s, tile.sums[i], width, token + i, row + i, before + i0 + i,
                                    after + i0 + i, unit)
            else:
                lstm_cells_backward(False, s, tile.sums[i], width, token + i, row + i, before + i0 + i,
                                    after + i0 + i, unit)
        i0 = i0 + m


def lstm_backward(Recurrence run, const real[::1] transposed, real[:, ::1] gates, const real[:, ::1] c,
                  const real[:, ::1] dy, real[:, ::1] dh, real[:, ::1] dc, int activation, int recurrent_activation,
                  RecurrentDropout dropout):
    """Turn gates into gradients of pre-activations; dh and dc go from final to initial states."""
    cdef uint64_t mode
    cdef LstmBackward s
    cdef Shard *shard = &run.shard
    cdef Slices *slices = &run.slices
    cdef MaskedProduct *masked = &dropout.backward if dropout is not None else NULL
    cdef Panel units
    cdef Py_ssize_t t = shard.steps - 1, n, going_on
    if active_rows(shard, 0) == 0 or dh.shape[1] == 0:
        return
    s.state.units = dh.shape[1]
    s.state.stride = gates.shape[1]
    s.state.first = 0
    s.state.depth = gates.shape[1]
    s.state.panels = &transposed[0]
    s.state.d = &gates[0, 0]
    s.state.dy = &dy[0, 0] if dy is not None else NULL
    s.state.carry = &dh[0, 0]
    s.state.carry_everywhere = False
    s.state.ready = NULL
    s.activation = activation
    s.recurrent_activation = recurrent_activation
    s.gates = &gates[0, 0]
    s.c = &c[0, 0]
    s.dc = &dc[0, 0]
    with nogil:
        mode = flush_denormals()
        while t >= 0:
            n = active_rows(shard, t)
            going_on = active_rows(shard, t + 1)
            if masked != NULL and going_on > 0:
                masked_backward(masked, s.state.d + (shard.offsets[t + 1] + shard.begin) * s.state.stride,
                                s.state.stride, shard.begin, going_on, dropout.dh)
                s.state.ready = dropout.dh - shard.begin * s.state.units
            while next_panel(slices, s.state.units, &units):
                lstm_step_backward(&s, shard, t, 0, going_on, False, &units)
                lstm_step_backward(&s, shard, t, going_on, n, True, &units)
            t = t - 1
        initial_state_gradient(&s.state, shard, slices, masked, dropout.dh if dropout is not None else NULL)
        set_float_mode(mode)
