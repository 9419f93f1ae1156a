# GRU (Cho et al. 2014), gates z, r and candidate n, h' = z * h + (1 - z) * n:
#     reset_after:   n = activation(x_n + r * (h @ U_n + b_n))     (Keras's default, and cuDNN's)
#     otherwise:     n = activation(x_n + (r * h) @ U_n)
# What is stored for the gradients stands in the order n, z, r and a fourth, which is h @ U_n + b_n or r * h: what
# belongs to the recurrent side, the last three or two, lies side by side.

cdef struct GruStep:
    Py_ssize_t units, depth     # depth: units, or 0 where nothing is to be multiplied
    int activation, recurrent_activation
    const real *x               # in   [*, 3 * units]  input products plus bias: z, r, n
    const int64_t *x_index      # in   [rows] or NULL
    bint table                  # x is a table: its rows come from anywhere
    const real *panels          # in   [units / LANES, rounded up][units][3][LANES] of z, r, n; or 2 of z, r
    const real *candidate       # in   not reset_after: U_n, columns in panels of WIDTH vectors
    const real *bias            # in   reset_after: [3 * units + LANES] recurrent bias z, r, n, or NULL
    const real *products        # in   [rows, (3 or 2) * units] h @ U + bias, or NULL (recurrent dropout)
    const real *reset_mask      # in   [rows, units] or NULL: not reset_after, dropout of the h that is reset
    const real *h_previous      # in   [rows, units]
    real *h                     # out  [rows, units]
    real *gates                 # out  [rows, 4 * units] n, z, r and the fourth; NULL in inference with reset_after


cdef inline void gru_cell(const bint fused, const bint across, const bint whole, const int count, const GruStep *s,
                          vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit) noexcept nogil:
    # `count` cells: one vector of units of as many rows, or, `across`, as many vectors of one row
    cdef const real *x
    cdef vec gates[2 * PAIR]    # z, r of each row
    cdef vec n[PAIR]
    cdef vec h
    cdef Py_ssize_t here
    cdef real *stored
    cdef int i, k
    for i in range(count):
        x = s.x + place(s.x_index, cell_row(across, row, i)) * 3 * s.units + cell_unit(across, unit, i)
        k = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        gates[2 * i] = load(x, k) + sums[i][0]
        gates[2 * i + 1] = load(x + s.units, k) + sums[i][1]
        n[i] = load(x + 2 * s.units, k)
    squash(fused, SIGMOID if fused else s.recurrent_activation, 2 * count, gates)
    for i in range(count):
        n[i] = v_fma(gates[2 * i + 1], sums[i][2], n[i])
    squash(fused, TANH if fused else s.activation, count, n)
    for i in range(count):
        k = cell_lanes(whole, s.units, cell_unit(across, unit, i))
        here = cell_row(across, row, i) * s.units + cell_unit(across, unit, i)
        h = load(s.h_previous + here, k)
        store(s.h + here, v_fma(gates[2 * i], h - n[i], n[i]), k)
        if s.gates != NULL:
            stored = s.gates + cell_row(across, row, i) * 4 * s.units + cell_unit(across, unit, i)
            store(stored, n[i], k)
            store(stored + s.units, gates[2 * i], k)
            store(stored + 2 * s.units, gates[2 * i + 1], k)
            store(stored + 3 * s.units, sums[i][2], k)


cdef inline void reset_cell(const bint fused, const GruStep *s, const vec *sums, Py_ssize_t row,
                            Py_ssize_t unit) noexcept nogil:
    # z, r and r * h of the variant that resets before the product
    cdef const real *x = s.x + place(s.x_index, row) * 3 * s.units + unit
    cdef real *stored = s.gates + row * 4 * s.units + unit
    cdef int n = lanes_left(s.units, unit)
    cdef vec gates[2]           # z, r
    cdef vec r
    gates[0] = load(x, n) + sums[0]
    gates[1] = load(x + s.units, n) + sums[1]
    squash(fused, SIGMOID if fused else s.recurrent_activation, 2, gates)
    store(stored + s.units, gates[0], n)
    store(stored + 2 * s.units, gates[1], n)
    r = gates[1] * load(s.h_previous + row * s.units + unit, n)
    if s.reset_mask != NULL:
        r = r * load(s.reset_mask + row * s.units + unit, n)
    store(stored + 3 * s.units, r, n)


cdef inline void take_products(const GruStep *s, Tile *t, Py_ssize_t row, Py_ssize_t unit, int rows,
                               int width) noexcept nogil:
    # Sums that are there already
    cdef int i, j, n = lanes_left(s.units, unit)
    for i in range(rows):
        for j in range(width):
            t.sums[i][j] = load(s.products + ((row + i) * width + j) * s.units + unit, n)


cdef inline void gru_cells(const bint fused, const bint across, const bint whole, const bint reset_after,
                           const GruStep *s, vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit,
                           int count) noexcept nogil:
    cdef int i = 0
    while reset_after and i + PAIR <= count:
        gru_cell(fused, across, whole, PAIR, s, sums + i, cell_row(across, row, i), cell_unit(across, unit, i))
        i = i + PAIR
    while i < count:
        if reset_after:
            gru_cell(fused, across, whole, 1, s, sums + i, cell_row(across, row, i), cell_unit(across, unit, i))
        else:
            reset_cell(fused, s, sums[i], row + i, unit)
        i = i + 1


cdef inline void gru_tile(const bint across, const bint reset_after, const GruStep *s, vec (*sums)[WIDTH],
                          Py_ssize_t row, Py_ssize_t unit, int count) noexcept nogil:
    if s.recurrent_activation != SIGMOID or (s.activation != TANH and reset_after):
        gru_cells(False, across, False, reset_after, s, sums, row, unit, count)
    elif reset_after and whole_units(across, s.units, unit, count):
        gru_cells(True, across, True, reset_after, s, sums, row, unit, count)
    else:
        gru_cells(True, across, False, reset_after, s, sums, row, unit, count)


cdef void gru_single_row(const GruStep *s, Tile *t, Py_ssize_t unit) noexcept nogil:
    # PANELS vectors of units of row 0, reset_after
    cdef int i
    t.x[0] = s.h_previous
    if s.bias != NULL:
        for i in range(PANELS):
            t.start[i] = s.bias + unit + i * LANES
    run_panels(3, t)
    gru_tile(True, True, s, t.sums, 0, unit, PANELS)


cdef void gru_rows(const GruStep *s, Tile *t, Py_ssize_t rows, Py_ssize_t unit, const bint reset_after,
                   const real *following) noexcept nogil:
    # One vector of units of all rows
    cdef Py_ssize_t row = 0
    cdef int i, m, width = 3 if reset_after else 2
    while row < rows:
        m = even_rows(rows - row)
        for i in range(m):
            t.x[i] = s.h_previous + (row + i) * s.units
            if s.bias != NULL:
                t.start[i] = s.bias + unit
        look_ahead(t, following, width, row)
        if s.table:
            fetch_rows(FIRST_LEVEL, s.x + unit, s.x_index, 3 * s.units, row, row + m, s.units, 3)
        if s.gates != NULL and s.units > NARROW:
            fetch_cells(TO_WRITE, s.gates + row * 4 * s.units + unit, 4, s.units, m, 1)
            fetch_cells(TO_WRITE, s.h + row * s.units + unit, 1, s.units, m, 1)
        if s.products == NULL:
            run_tile(m, width, t)
        else:
            take_products(s, t, row, unit, m, width)
        gru_tile(False, reset_after, s, t.sums, row, unit, m)
        row = row + m


cdef void gru_gates(const GruStep *s, Py_ssize_t rows, const bint reset_after, const Panel *units) noexcept nogil:
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef int width = 3 if reset_after else 2
    cdef bint single
    cdef Py_ssize_t unit = units.begin, following, panels, size = s.depth * width * LANES
    keep_sums(&t)
    t.panel = s.panels + unit // LANES * size
    t.depth = s.depth
    start_from(&zero, &t)
    if s.bias != NULL:
        t.start_step = s.units
    single = reset_after and rows == 1 and s.products == NULL
    while unit < units.end:
        panels = PANELS if single and units.end - unit > (PANELS - 1) * LANES else 1
        if panels > 1:
            gru_single_row(s, &t, unit)
        else:
            following = unit + LANES if unit + LANES < units.end else units.following
            gru_rows(s, &t, rows, unit, reset_after, s.panels + following // LANES * size)
        t.panel = t.panel + panels * size
        unit = unit + panels * LANES


cdef void gru_candidate(const GruStep *s, Py_ssize_t rows) noexcept nogil:
    # n and h of the variant that resets before the product
    cdef Tile t
    cdef Py_ssize_t row, column, unit = 0
    cdef int i, j, m, k, width
    cdef vec n, h
    cdef vec zero = v_set1(0.0)
    cdef const real *x
    cdef real *gates
    keep_sums(&t)
    start_from(&zero, &t)
    t.panel = s.candidate
    t.depth = s.depth
    while unit < s.units:
        width = panel_width(s.units, unit)
        row = 0
        while row < rows:
            m = even_rows(rows - row)
            look_ahead(&t, t.panel + width * t.depth * LANES, width, row)
            for i in range(m):
                t.x[i] = s.gates + (row + i) * 4 * s.units + 3 * s.units
            run_tile(m, width, &t)
            for i in range(m):
                x = s.x + (place(s.x_index, row + i) * 3 + 2) * s.units
                for j in range(width):
                    column = unit + j * LANES
                    k = lanes_left(s.units, column)
                    gates = s.gates + (row + i) * 4 * s.units + column
                    n = activate(s.activation, load(x + column, k) + t.sums[i][j])
                    h = load(s.h_previous + (row + i) * s.units + column, k)
                    store(gates, n, k)
                    store(s.h + (row + i) * s.units + column, v_fma(load(gates + s.units, k), h - n, n), k)
            row = row + m
        t.panel = t.panel + t.depth * WIDTH * LANES
        unit = unit + WIDTH * LANES


cdef void gru_masked_products(const GruStep *s, const MaskedProduct *dropout, Py_ssize_t row, Py_ssize_t rows,
                              real *products) noexcept nogil:
    # products = (h * mask) @ U + bias
    cdef Py_ssize_t i
    for i in range(rows):
        if s.bias == NULL:
            memset(products + i * dropout.stride, 0, dropout.stride * sizeof(real))
        else:
            memcpy(products + i * dropout.stride, s.bias, dropout.stride * sizeof(real))
    masked_forward(dropout, s.h_previous, row, rows, products)


def gru_forward(Recurrence run, const real[::1] panels, const real[::1] candidate, const real[::1] bias,
                real[:, ::1] h, real[:, ::1] gates, bint gates_by_token, int activation, int recurrent_activation,
                bint reset_after, bint every_step, bint zero_state, RecurrentDropout dropout,
                const real[:, ::1] reset_mask):
    """Run the steps of a shard; h holds the initial state. gates: [tokens or rows, 4 * units] or None.

    A run with a team has no dropout, and is one of reset_after.
    """
    cdef uint64_t mode
    cdef GruStep s
    cdef Shard *shard = &run.shard
    cdef Inputs *inputs = &run.inputs
    cdef Slices *slices = &run.slices
    cdef Panel units
    cdef Py_ssize_t t = 0, block_end, count, n
    if active_rows(shard, 0) == 0 or h.shape[1] == 0:
        return
    s.units = h.shape[1]
    s.activation = activation
    s.recurrent_activation = recurrent_activation
    s.panels = &panels[0]
    s.candidate = &candidate[0] if candidate is not None else NULL
    s.bias = &bias[0] if bias is not None else NULL
    s.products = NULL
    s.gates = NULL
    s.table = inputs.table
    s.reset_mask = &reset_mask[shard.begin, 0] if reset_mask is not None else NULL
    with nogil:
        mode = flush_denormals()
        while active_rows(shard, t) > 0:
            block_end = next_block(inputs, shard, slices, t)
            count = 0
            while t < block_end:
                n = active_rows(shard, t)
                s.x = inputs.product.out
                s.x_index = inputs.z_index + count
                s.depth = 0 if t == 0 and zero_state else s.units
                s.h_previous = &h[state_before(shard, every_step, t), 0]
                s.h = &h[state_after(shard, every_step, t), 0]
                if gates is not None:
                    s.gates = &gates[shard.begin + (shard.offsets[t] if gates_by_token else 0), 0]
                if dropout is not None and s.depth > 0:
                    gru_masked_products(&s, &dropout.forward, shard.begin, n, dropout.z)
                    s.products = dropout.z
                while next_panel(slices, s.units, &units):
                    if reset_after:
                        gru_gates(&s, n, True, &units)
                    else:
                        gru_gates(&s, n, False, &units)
                if not reset_after:
                    gru_candidate(&s, n)
                count = count + n
                t = t + 1
        set_float_mode(mode)
