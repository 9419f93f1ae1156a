# The backward pass of the GRU of gru.pxi.

cdef struct GruBackward:
    StateGradient state
    int activation, recurrent_activation
    real *gates                 # in: n, z, r, fourth; out: gradients of n, z, r and of h @ U_n (or r * h as it was)
    const real *h               # in   [rows + tokens, units]
    const real *candidate       # in   not reset_after: transposed U_n
    real *reset                 # scratch [rows, units], not reset_after: gradient of r * h
    const real *reset_mask      # in   [rows, units] or NULL


cdef inline void gru_cell_backward(const bint fused, const bint reset_after, const GruBackward *s, vec dh,
                                   Py_ssize_t token, Py_ssize_t row, Py_ssize_t before, Py_ssize_t unit) noexcept nogil:
    cdef int act = TANH if fused else s.activation
    cdef int rec = SIGMOID if fused else s.recurrent_activation
    cdef Py_ssize_t units = s.state.units
    cdef int k = lanes_left(units, unit)
    cdef real *gates = s.gates + token * 4 * units + unit
    cdef vec n = load(gates, k)
    cdef vec z = load(gates + units, k)
    cdef vec h = load(s.h + before * units + unit, k)
    cdef vec dn = dh * (v_set1(1.0) - z) * slope(act, n)
    cdef vec r
    store(gates, dn, k)
    store(gates + units, dh * (h - n) * slope(rec, z), k)
    store(s.state.carry + row * units + unit, dh * z, k)
    if reset_after:
        r = load(gates + 2 * units, k)
        store(gates + 2 * units, dn * load(gates + 3 * units, k) * slope(rec, r), k)
        store(gates + 3 * units, dn * r, k)


cdef void gru_reset_backward(const GruBackward *s, Py_ssize_t token, Py_ssize_t row, Py_ssize_t before,
                             Py_ssize_t rows, bint zero_state) noexcept nogil:
    # From the gradient of n through (r * h) @ U_n to r and h. Zeros that the first step starts from are not multiplied.
    cdef Product p
    cdef Py_ssize_t i, unit, units = s.state.units
    cdef real *gates
    cdef real *carry
    cdef vec dreset, r
    cdef int k
    p.depth = 0 if zero_state else units
    p.columns = units
    p.x = s.gates + token * 4 * units
    p.x_stride = 4 * units
    p.x_index = NULL
    p.panels = s.candidate
    p.start = NULL
    p.out = s.reset + row * units
    p.out_index = NULL
    p.out_stride = units
    p.accumulate = False
    p.far = False
    product(&p, 0, rows)
    for i in range(rows):
        unit = 0
        while unit < units:
            k = lanes_left(units, unit)
            gates = s.gates + (token + i) * 4 * units + unit
            carry = s.state.carry + (row + i) * units + unit
            dreset = load(s.reset + (row + i) * units + unit, k)
            if s.reset_mask != NULL:
                dreset = dreset * load(s.reset_mask + (row + i) * units + unit, k)
            r = load(gates + 2 * units, k)
            store(carry, v_fma(dreset, r, load(carry, k)), k)
            store(gates + 2 * units,
                  dreset * load(s.h + (before + i) * units + unit, k) * slope(s.recurrent_activation, r), k)
            unit = unit + LANES


cdef void gru_step_backward(const GruBackward *s, const Shard *shard, Py_ssize_t t, Py_ssize_t begin, Py_ssize_t end,
                            const bint reset_after, bint ends, const Panel *units) noexcept nogil:
    # Some units of rows begin to end (counted from the shard's first) of step t.
    cdef Tile tile
    cdef Py_ssize_t i0 = begin, unit = units.begin, token, row, before
    cdef Py_ssize_t next_token = 0 if begin == end or ends else shard.offsets[t + 1] + shard.begin
    cdef int i, j, m, width = panel_width(s.state.units, unit)
    cdef bint fused = s.activation == TANH and s.recurrent_activation == SIGMOID
    keep_sums(&tile)
    tile.depth = s.state.depth
    tile.start_step = LANES
    tile.panel = s.state.panels + unit * s.state.depth
    while i0 < end:
        m = even_rows(end - i0)
        look_ahead(&tile, s.state.panels + units.following * s.state.depth, width, i0 - begin)
        token = shard.offsets[t] + shard.begin + i0
        row = shard.begin + i0
        before = state_before(shard, True, t) + i0
        if s.state.units > NARROW:
            fetch_cells(SECOND_LEVEL, s.gates + token * 4 * s.state.units + unit, 4, s.state.units, m, width)
            fetch_cells(SECOND_LEVEL, s.h + before * s.state.units + unit, 1, s.state.units, m, width)
        state_gradient(&s.state, &tile, token, next_token + i0, row, unit, m, width, ends)
        for i in range(m):
            for j in range(width):
                if fused:
                    gru_cell_backward(True, reset_after, s, tile.sums[i][j], token + i, row + i, before + i,
                                      unit + j * LANES)
                else:
                    gru_cell_backward(False, reset_after, s, tile.sums[i][j], token + i, row + i, before + i,
                                      unit + j * LANES)
        i0 = i0 + m


def gru_backward(Recurrence run, const real[::1] transposed, const real[::1] candidate, real[:, ::1] gates,
                 const real[:, ::1] h, const real[:, ::1] dy, real[:, ::1] dh, real[:, ::1] reset, int activation,
                 int recurrent_activation, bint reset_after, bint zero_state, RecurrentDropout dropout,
                 const real[:, ::1] reset_mask):
    """Turn gates into gradients of pre-activations; dh goes from final to initial state. h: [rows + tokens, units]."""
    cdef uint64_t mode
    cdef GruBackward s
    cdef Shard *shard = &run.shard
    cdef Slices *slices = &run.slices
    cdef MaskedProduct *masked = &dropout.backward if dropout is not None else NULL
    cdef Panel units
    cdef Py_ssize_t t = shard.steps - 1, n, going_on
    if active_rows(shard, 0) == 0 or dh.shape[1] == 0:
        return
    s.state.units = s.state.first = dh.shape[1]
    s.state.stride = gates.shape[1]
    s.state.depth = (3 if reset_after else 2) * s.state.units
    s.state.panels = &transposed[0]
    s.state.d = &gates[0, 0]
    s.state.dy = &dy[0, 0] if dy is not None else NULL
    s.state.carry = &dh[0, 0]
    s.state.carry_everywhere = True
    s.state.ready = NULL
    s.activation = activation
    s.recurrent_activation = recurrent_activation
    s.gates = &gates[0, 0]
    s.h = &h[0, 0]
    s.candidate = &candidate[0] if candidate is not None else NULL
    s.reset = &reset[0, 0] if reset is not None else NULL
    s.reset_mask = &reset_mask[0, 0] if reset_mask is not None else NULL
    with nogil:
        mode = flush_denormals()
        while t >= 0:
            n = active_rows(shard, t)
            going_on = active_rows(shard, t + 1)
            if masked != NULL and going_on > 0:
                masked_backward(masked,
                                s.state.d + (shard.offsets[t + 1] + shard.begin) * s.state.stride + s.state.first,
                                s.state.stride, shard.begin, going_on, dropout.dh)
                s.state.ready = dropout.dh - shard.begin * s.state.units
            while next_panel(slices, s.state.units, &units):
                if reset_after:
                    gru_step_backward(&s, shard, t, 0, going_on, True, False, &units)
                    gru_step_backward(&s, shard, t, going_on, n, True, True, &units)
                else:
                    gru_step_backward(&s, shard, t, 0, going_on, False, False, &units)
                    gru_step_backward(&s, shard, t, going_on, n, False, True, &units)
            if not reset_after:
                gru_reset_backward(&s, shard.offsets[t] + shard.begin, shard.begin, state_before(shard, True, t), n,
                                   zero_state and t == 0)
            t = t - 1
        initial_state_gradient(&s.state, shard, slices, masked, dropout.dh if dropout is not None else NULL)
        set_float_mode(mode)
