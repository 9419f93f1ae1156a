# The phases of a step: products of states by the micro-kernel, and right after each tile the cells that it belongs to.

cdef enum:
    NARROW = 64         # units up to which prefetching takes as long as it saves
    GATES = 0           # parts of a cell
    OUTPUT = 1


cdef inline void prefetch_cells(const Prefetch how, const real *x, int gates, Py_ssize_t units, int rows,
                                int width) noexcept nogil:
    # `width` vectors of units, of so many gates that stand `units` numbers apart, come nearer while the product of
    # their rows runs: the gradients of an LSTM of 128 units took 64.6 ms without it, and 62.4 ms with it.
    cdef int gate
    for gate in range(gates):
        prefetch_rows(how, x + gate * units, NULL, gates * units, 0, rows, LANES, width)


# The recurrent kernel by gates: a panel has one vector of units of each. `cell` is a literal.

cdef inline void some_cells(const int cell, const int part, const bint fused, const bint across, const bint whole,
                            const int count, const Step *s, vec (*sums)[WIDTH], Py_ssize_t row,
                            Py_ssize_t unit) noexcept nogil:
    if cell != LSTM:
        gru_cell(cell, fused, across, whole, count, s, sums, row, unit)
    elif part == GATES:
        lstm_gates(fused, across, whole, count, s, sums, row, unit)
    else:
        lstm_output(fused, across, whole, count, s, sums, row, unit)


cdef inline void cells_in_pairs(const int cell, const int part, const bint fused, const bint across, const bint whole,
                                const Step *s, vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit,
                                int count) noexcept nogil:
    cdef int i = 0
    while i + PAIR <= count:
        some_cells(cell, part, fused, across, whole, PAIR, s, sums + i, cell_row(across, row, i),
                   cell_unit(across, unit, i))
        i = i + PAIR
    if i < count:
        some_cells(cell, part, fused, across, whole, 1, s, sums + i, cell_row(across, row, i),
                   cell_unit(across, unit, i))


cdef inline void all_cells(const int cell, const bint fused, const bint across, const bint whole, const Step *s,
                           vec (*sums)[WIDTH], Py_ssize_t row, Py_ssize_t unit, int count) noexcept nogil:
    cells_in_pairs(cell, GATES, fused, across, whole, s, sums, row, unit, count)
    if cell == LSTM:
        # The outputs come last: each waits for all gates of its cell.
        cells_in_pairs(cell, OUTPUT, fused, across, whole, s, sums, row, unit, count)


cdef inline void tile_cells(const int cell, const bint across, const Step *s, vec (*sums)[WIDTH], Py_ssize_t row,
                            Py_ssize_t unit, int count) noexcept nogil:
    if s.recurrent_activation != SIGMOID or (s.activation != TANH and cell != GRU_RESET_BEFORE):
        all_cells(cell, False, across, False, s, sums, row, unit, count)
    elif whole_units(across, s.units, unit, count):
        all_cells(cell, True, across, True, s, sums, row, unit, count)
    else:
        all_cells(cell, True, across, False, s, sums, row, unit, count)


cdef inline void one_row(const int cell, const Step *s, Tile *t, Py_ssize_t unit) noexcept nogil:
    # PANELS vectors of units of row 0
    cdef int i
    t.x[0] = s.x
    if cell != LSTM and s.start != NULL:
        for i in range(PANELS):
            t.start[i] = s.start + unit + i * LANES
    if s.column_units == NULL:
        run_panels(state_gates(cell), t)
    else:
        t.units = s.column_units + unit
        run_integer_panels(state_gates(cell), t)
    tile_cells(cell, True, s, t.sums, 0, unit, PANELS)


cdef inline void all_rows(const int cell, const Step *s, Tile *t, Py_ssize_t rows, Py_ssize_t unit,
                          const real *following) noexcept nogil:
    # One vector of units of all rows
    cdef Py_ssize_t row = 0
    cdef int i, m
    while row < rows:
        m = even_rows(rows - row, s.column_units != NULL)
        for i in range(m):
            t.x[i] = s.x + (row + i) * s.x_stride
            if cell != LSTM and s.start != NULL:
                t.start[i] = s.start + (row + i) * s.start_stride + unit
        prefetch_panel(t, following, state_gates(cell), row)
        if s.table:
            # Predictions of an embedding and an LSTM of 128 units took 6.6 ms without it, and 5.9 ms with it.
            prefetch_rows(FIRST_LEVEL, s.z + unit, s.z_index, input_gates(cell) * s.units, row, row + m, s.units,
                          input_gates(cell))
        if s.gates != NULL and s.units > NARROW:
            prefetch_cells(TO_WRITE, s.gates + row * 4 * s.units + unit, 4, s.units, m, 1)
            if cell == LSTM:
                prefetch_cells(TO_WRITE, s.c + row * s.units + unit, 1, s.units, m, 1)
            prefetch_cells(TO_WRITE, s.h + row * s.units + unit, 1, s.units, m, 1)
        if s.column_units == NULL:
            run_tile(m, state_gates(cell), t)
        else:
            t.units = s.column_units + unit
            run_integer_tile(m, state_gates(cell), t)
        tile_cells(cell, False, s, t.sums, row, unit, m)
        row = row + m


cdef inline void phase_by_gates(const int cell, const Step *step, Py_ssize_t rows,
                                const Columns *columns) noexcept nogil:
    # Of a step elsewhere, units and pointers would be read again after each store.
    cdef Step s = step[0]
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t unit = columns.begin, following, panels, size = s.depth * state_gates(cell) * LANES
    keep_sums(&t)
    start_from(&zero, &t)
    t.units_step = s.units
    if cell != LSTM and s.start != NULL:
        t.start_step = s.units
    t.panel = s.panels + unit // LANES * size
    t.depth = s.depth
    while unit < columns.end:
        panels = 1
        if cell != GRU_RESET_BEFORE and rows == 1 and columns.end - unit > (PANELS - 1) * LANES:
            panels = PANELS
            one_row(cell, &s, &t, unit)
        else:
            following = unit + LANES if unit + LANES < columns.end else columns.following
            all_rows(cell, &s, &t, rows, unit, s.panels + following // LANES * size)
        t.panel = t.panel + panels * size
        unit = unit + panels * LANES


cdef void lstm_phase(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil:
    phase_by_gates(LSTM, s, rows, columns)


cdef void gru_phase(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil:
    phase_by_gates(GRU, s, rows, columns)


cdef void reset_phase(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil:
    phase_by_gates(GRU_RESET_BEFORE, s, rows, columns)


# One matrix of as many columns as there are units, in panels of WIDTH vectors: a SimpleRNN's, and the candidate's of
# GRU_RESET_BEFORE, which meets r * h.

cdef inline void phase_by_columns(const int cell, const Step *step, Py_ssize_t rows,
                                  const Columns *columns) noexcept nogil:
    cdef Step s = step[0]
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef const real *panels = s.panels if cell == SIMPLE_RNN else s.candidate
    cdef const real *units = s.column_units if cell == SIMPLE_RNN else s.candidate_units
    cdef Py_ssize_t row = 0, unit = columns.begin
    cdef int i, m, width = panel_width(s.units, unit)
    keep_sums(&t)
    start_from(&zero, &t)
    t.depth = s.depth if cell == SIMPLE_RNN else s.candidate_depth
    t.panel = panels + unit * t.depth
    t.units = units + unit if units != NULL else NULL
    t.units_step = LANES
    while row < rows:
        m = even_rows(rows - row, units != NULL)
        prefetch_panel(&t, panels + columns.following * t.depth, width, row)
        for i in range(m):
            t.x[i] = s.x + (row + i) * s.x_stride
        if cell == SIMPLE_RNN and s.table:
            prefetch_rows(FIRST_LEVEL, s.z + unit, s.z_index, s.units, row, row + m, LANES, width)
        if units == NULL:
            run_tile(m, width, &t)
        else:
            run_integer_tile(m, width, &t)
        for i in range(m):
            if cell == SIMPLE_RNN:
                simple_rnn_cells(&s, t.sums[i], row + i, unit, width)
            else:
                candidate_cells(&s, t.sums[i], row + i, unit, width)
        row = row + m


cdef void simple_rnn_phase(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil:
    phase_by_columns(SIMPLE_RNN, s, rows, columns)


cdef void candidate_phase(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil:
    phase_by_columns(GRU_RESET_BEFORE, s, rows, columns)


# Backwards: the transposed recurrent kernel in panels of WIDTH vectors.

cdef void state_gradient(const BackwardStep *s, Tile *t, Py_ssize_t i0, Py_ssize_t unit, int rows, int width,
                         bint ends) noexcept nogil:
    # sums[i][j] = gradient of h, of row i0 + i of the step, vector j from unit on
    cdef Py_ssize_t column
    cdef int i, j, n
    cdef vec sum
    cdef vec zero = v_set1(0.0)
    cdef bint product = not ends and s.products == NULL
    if product:
        start_from(&zero, t)
        for i in range(rows):
            t.x[i] = s.d + (s.next_token + i0 + i) * s.stride + s.first
        run_tile(rows, width, t)
    for i in range(rows):
        for j in range(width):
            column = unit + j * LANES
            n = lanes_left(s.units, column)
            sum = t.sums[i][j] if product else zero
            if not ends and s.products != NULL:
                sum = load(s.products + (i0 + i) * s.units + column, n)
            if s.dy != NULL:
                sum = sum + load(s.dy + (s.token + i0 + i) * s.units + column, n)
            if ends or s.passes:
                sum = sum + load(s.dh + (s.row + i0 + i) * s.units + column, n)
            t.sums[i][j] = sum


cdef inline void prefetch_backward(const int cell, const BackwardStep *s, Py_ssize_t i0, Py_ssize_t unit, int rows,
                                   int width) noexcept nogil:
    if cell != SIMPLE_RNN:
        prefetch_cells(SECOND_LEVEL, s.d + (s.token + i0) * 4 * s.units + unit, 4, s.units, rows, width)
    if cell == LSTM:
        prefetch_cells(SECOND_LEVEL, s.c + (s.before + i0) * s.units + unit, 1, s.units, rows, width)
        prefetch_cells(SECOND_LEVEL, s.c + (s.after + i0) * s.units + unit, 1, s.units, rows, width)
    elif cell == SIMPLE_RNN:
        prefetch_cells(SECOND_LEVEL, s.h + (s.after + i0) * s.units + unit, 1, s.units, rows, width)
    else:
        prefetch_cells(SECOND_LEVEL, s.h + (s.before + i0) * s.units + unit, 1, s.units, rows, width)


cdef inline void row_cells_backward(const int cell, const bint fused, const BackwardStep *s, const vec *dh,
                                    Py_ssize_t i, Py_ssize_t unit, int width) noexcept nogil:
    # `width` vectors of units of row i of the step
    cdef int j
    if cell == SIMPLE_RNN:
        simple_rnn_cells_backward(s, dh, s.token + i, s.after + i, unit, width)
    elif cell == LSTM:
        lstm_cells_backward(fused, s, dh, s.token + i, s.row + i, s.before + i, s.after + i, unit, width)
    else:
        for j in range(width):
            gru_cell_backward(cell, fused, s, dh[j], s.token + i, s.row + i, s.before + i, unit + j * LANES)


cdef inline void phase_backward(const int cell, const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                                const Columns *columns) noexcept nogil:
    cdef Tile t
    cdef Py_ssize_t row = 0, unit = columns.begin
    cdef int i, m, width = panel_width(s.units, unit)
    cdef bint fused = cell != SIMPLE_RNN and s.activation == TANH and s.recurrent_activation == SIGMOID
    cdef bint ends
    keep_sums(&t)
    t.depth = s.depth
    t.panel = s.panels + unit * s.depth
    while row < rows:
        ends = row >= going_on
        m = even_rows((rows if ends else going_on) - row, False)
        prefetch_panel(&t, s.panels + columns.following * s.depth, width, row)
        if s.units > NARROW:
            prefetch_backward(cell, s, row, unit, m, width)
        state_gradient(s, &t, row, unit, m, width, ends)
        for i in range(m):
            if fused:
                row_cells_backward(cell, True, s, t.sums[i], row + i, unit, width)
            else:
                row_cells_backward(cell, False, s, t.sums[i], row + i, unit, width)
        row = row + m


cdef void simple_rnn_backward(const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                              const Columns *columns) noexcept nogil:
    phase_backward(SIMPLE_RNN, s, going_on, rows, columns)


cdef void lstm_backward(const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                        const Columns *columns) noexcept nogil:
    phase_backward(LSTM, s, going_on, rows, columns)


cdef void gru_backward(const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                       const Columns *columns) noexcept nogil:
    phase_backward(GRU, s, going_on, rows, columns)


cdef void reset_before_backward(const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                                const Columns *columns) noexcept nogil:
    phase_backward(GRU_RESET_BEFORE, s, going_on, rows, columns)


cdef void candidate_backward(const BackwardStep *s, Py_ssize_t _going_on, Py_ssize_t rows,
                             const Columns *columns) noexcept nogil:
    # From the gradient of n, which stands first in d, through the product with U_n
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t row = 0, unit = columns.begin
    cdef int i, m, width = panel_width(s.units, unit)
    keep_sums(&t)
    start_from(&zero, &t)
    t.depth = s.candidate_depth
    t.panel = s.candidate + unit * t.depth
    while row < rows:
        m = even_rows(rows - row, False)
        prefetch_panel(&t, s.candidate + columns.following * t.depth, width, row)
        for i in range(m):
            t.x[i] = s.d + (s.token + row + i) * s.stride
        run_tile(m, width, &t)
        for i in range(m):
            reset_cells_backward(s, t.sums[i], s.token + row + i, row + i, unit, width)
        row = row + m
