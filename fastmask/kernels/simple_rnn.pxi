# SimpleRNN: h' = activation(z + h @ U), z the input product plus bias.

cdef void simple_rnn_step(const real *z, const int64_t *z_index, bint table, const real *panels, const real *h_previous,
                          Py_ssize_t depth, real *h, Py_ssize_t units, Py_ssize_t rows, int activation,
                          const Panel *columns) noexcept nogil:
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef const real *x
    cdef Py_ssize_t row = 0, unit = columns.begin, column
    cdef int i, j, m, width = panel_width(units, unit)
    keep_sums(&t)
    start_from(&zero, &t)
    t.panel = panels + unit * depth
    t.depth = depth
    while row < rows:
        m = even_rows(rows - row)
        look_ahead(&t, panels + columns.following * depth, width, row)
        for i in range(m):
            t.x[i] = h_previous + (row + i) * units
        if table:
            fetch_rows(FIRST_LEVEL, z + unit, z_index, units, row, row + m, LANES, width)
        run_tile(m, width, &t)
        for i in range(m):
            x = z + place(z_index, row + i) * units + unit
            for j in range(width):
                t.sums[i][j] = load(x + j * LANES, lanes_left(units, unit + j * LANES)) + t.sums[i][j]
            if width == WIDTH and activation == TANH:
                tanhs(WIDTH, t.sums[i])
            else:
                squash(False, activation, width, t.sums[i])
            for j in range(width):
                column = unit + j * LANES
                store(h + (row + i) * units + column, t.sums[i][j], lanes_left(units, column))
        row = row + m


def simple_rnn_forward(Recurrence run, const real[::1] panels, real[:, ::1] h, int activation, bint every_step,
                       bint zero_state, RecurrentDropout dropout):
    """Run the steps of a shard; h holds the initial state."""
    cdef uint64_t mode
    cdef Shard *shard = &run.shard
    cdef Inputs *inputs = &run.inputs
    cdef Slices *slices = &run.slices
    cdef Py_ssize_t t = 0, block_end, count, before, after, n, depth
    cdef Panel columns
    cdef Py_ssize_t units = h.shape[1]
    cdef const real *z
    cdef const int64_t *z_index
    if active_rows(shard, 0) == 0 or units == 0:
        return
    with nogil:
        mode = flush_denormals()
        while active_rows(shard, t) > 0:
            block_end = next_block(inputs, shard, slices, t)
            count = 0
            while t < block_end:
                n = active_rows(shard, t)
                before = state_before(shard, every_step, t)
                after = state_after(shard, every_step, t)
                z = inputs.product.out
                z_index = inputs.z_index + count
                depth = 0 if t == 0 and zero_state else units
                if dropout is not None and depth > 0:
                    copy_rows(z, z_index, units, n, dropout.z)
                    masked_forward(&dropout.forward, &h[before, 0], shard.begin, n, dropout.z)
                    z = dropout.z
                    z_index = NULL
                    depth = 0
                while next_panel(slices, units, &columns):
                    simple_rnn_step(z, z_index, inputs.table, &panels[0], &h[before, 0], depth, &h[after, 0], units, n,
                                    activation, &columns)
                count = count + n
                t = t + 1
        set_float_mode(mode)


cdef void simple_rnn_step_backward(const StateGradient *s, const Shard *shard, Py_ssize_t t, const real *h, real *d,
                                   int activation, Py_ssize_t begin, Py_ssize_t end, bint ends,
                                   const Panel *units) noexcept nogil:
    # Some units of rows begin to end (counted from the shard's first) of step t.
    cdef Tile tile
    cdef Py_ssize_t i0 = begin, token, column
    cdef Py_ssize_t next_token = 0 if begin == end or ends else shard.offsets[t + 1] + shard.begin
    cdef int i, j, m, n, width = panel_width(s.units, units.begin)
    cdef vec y
    keep_sums(&tile)
    tile.depth = s.depth
    tile.start_step = LANES
    tile.panel = s.panels + units.begin * s.depth
    while i0 < end:
        m = even_rows(end - i0)
        look_ahead(&tile, s.panels + units.following * s.depth, width, i0 - begin)
        token = shard.offsets[t] + shard.begin + i0
        if s.units > NARROW:
            fetch_cells(SECOND_LEVEL, h + token * s.units + units.begin, 1, s.units, m, width)
        state_gradient(s, &tile, token, next_token + i0, shard.begin + i0, units.begin, m, width, ends)
        for i in range(m):
            for j in range(width):
                column = units.begin + j * LANES
                n = lanes_left(s.units, column)
                y = load(h + (token + i) * s.units + column, n)
                store(d + (token + i) * s.stride + column, tile.sums[i][j] * slope(activation, y), n)
        i0 = i0 + m


def simple_rnn_backward(Recurrence run, const real[::1] transposed, const real[:, ::1] h, const real[:, ::1] dy,
                        real[:, ::1] dh, real[:, ::1] d, int activation, RecurrentDropout dropout):
    """Fill d with gradients of pre-activations; dh goes from final to initial state. h: [rows + tokens, units]."""
    cdef uint64_t mode
    cdef StateGradient s
    cdef Shard *shard = &run.shard
    cdef Slices *slices = &run.slices
    cdef MaskedProduct *masked = &dropout.backward if dropout is not None else NULL
    cdef Panel units
    cdef Py_ssize_t t = shard.steps - 1, n, going_on
    if active_rows(shard, 0) == 0 or dh.shape[1] == 0:
        return
    s.units = dh.shape[1]
    s.stride = d.shape[1]
    s.first = 0
    s.depth = d.shape[1]
    s.panels = &transposed[0]
    s.d = &d[0, 0]
    s.dy = &dy[0, 0] if dy is not None else NULL
    s.carry = &dh[0, 0]
    s.carry_everywhere = False
    s.ready = NULL
    with nogil:
        mode = flush_denormals()
        while t >= 0:
            n = active_rows(shard, t)
            going_on = active_rows(shard, t + 1)
            if masked != NULL and going_on > 0:
                masked_backward(masked, s.d + (shard.offsets[t + 1] + shard.begin) * s.stride, s.stride, shard.begin,
                                going_on, dropout.dh)
                s.ready = dropout.dh - shard.begin * s.units
            while next_panel(slices, s.units, &units):
                simple_rnn_step_backward(&s, shard, t, &h[shard.rows, 0], &d[0, 0], activation, 0, going_on, False,
                                         &units)
                simple_rnn_step_backward(&s, shard, t, &h[shard.rows, 0], &d[0, 0], activation, going_on, n, True,
                                         &units)
            t = t - 1
        initial_state_gradient(&s, shard, slices, masked, dropout.dh if dropout is not None else NULL)
        set_float_mode(mode)
