# Steps of a few rows. The weights are read once for each token, or once for a step, so they are taken as they lie:
# packing them would cost more than the steps.

cdef void row_product(const real *x, const Matrix *m, const real *start, real *out) noexcept nogil:
    # out = start (or zeros) + x @ matrix, whose rows are contiguous, each sum in the order of the other products
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t column = 0
    t.depth = m.depth
    t.x[0] = x
    t.panel_stride = m.row_stride
    t.start_step = 0 if start == NULL else LANES
    while column + PANELS * WIDTH * LANES <= m.columns:
        row_vectors(PANELS, WIDTH, m.numbers, start, out, column, &zero, &t)
        column = column + PANELS * WIDTH * LANES
    # Few chains of additions leave the multipliers idle, so what is left is taken in the largest pieces there are.
    if PANELS > 2 and column + 2 * WIDTH * LANES <= m.columns:
        row_vectors(2, WIDTH, m.numbers, start, out, column, &zero, &t)
        column = column + 2 * WIDTH * LANES
    if column + 4 * LANES <= m.columns:
        row_vectors(1, 4, m.numbers, start, out, column, &zero, &t)
        column = column + 4 * LANES
    if column + 2 * LANES <= m.columns:
        row_vectors(1, 2, m.numbers, start, out, column, &zero, &t)
        column = column + 2 * LANES
    if column + LANES <= m.columns:
        row_vectors(1, 1, m.numbers, start, out, column, &zero, &t)
        column = column + LANES
    if column < m.columns:
        row_tail(x, m, start, out, column)


cdef inline void row_vectors(const int groups, const int width, const real *matrix, const real *start, real *out,
                             Py_ssize_t column, const vec *zero, Tile *t) noexcept nogil:
    cdef int i
    t.panel = matrix + column
    for i in range(groups):
        t.start[i] = <const real *>zero if start == NULL else start + column + i * width * LANES
        t.out[i] = out + column + i * width * LANES
    multiply(groups, width, UNPACKED, False, t)


cdef void row_tail(const real *x, const Matrix *m, const real *start, real *out, Py_ssize_t column) noexcept nogil:
    cdef int n = lanes_left(m.columns, column)
    cdef vec a = v_set1(0.0) if start == NULL else load(start + column, n)
    cdef Py_ssize_t k
    for k in range(m.depth):
        a = v_fma(v_set1(x[k]), load(m.numbers + k * m.row_stride + column, n), a)
    store(out + column, a, n)


# A row times a matrix whose columns lie along its memory: squares of it are turned over in registers.

cdef void column_product(const real *x, const Matrix *m, const real *start, real *out) noexcept nogil:
    # The same as row_product, for at least LANES columns. The last vectors overlap those before them.
    cdef Py_ssize_t column = 0
    while column + TURNED * LANES <= m.columns:
        turned_vectors(TURNED, x, m, start, out, column)
        column = column + TURNED * LANES
    while column < m.columns:
        column = min(column, m.columns - LANES)
        turned_vectors(1, x, m, start, out, column)
        column = column + LANES


cdef inline void turned_vectors(const int count, const real *x, const Matrix *m, const real *start, real *out,
                                Py_ssize_t column) noexcept nogil:
    cdef vec sums[TURNED]
    cdef vec a[SQUARE]
    cdef const real *source[TURNED]
    cdef Py_ssize_t k = 0, stride = m.column_stride
    cdef int i, j, n
    for j in range(count):
        sums[j] = v_set1(0.0) if start == NULL else v_load(start + column + j * LANES)
        source[j] = m.numbers + (column + j * LANES) * stride
    while k + SQUARE <= m.depth:
        for j in range(count):
            turn(source[j], stride, a)
            source[j] = source[j] + SQUARE
            for n in range(SQUARE):
                sums[j] = v_fma(v_set1(x[k + n]), a[n], sums[j])
        k = k + SQUARE
    while k < m.depth:
        for j in range(count):
            for i in range(LANES):
                (<real *>a)[i] = source[j][i * stride]
            sums[j] = v_fma(v_set1(x[k]), a[0], sums[j])
            source[j] = source[j] + 1
        k = k + 1
    for j in range(count):
        v_store(out + column + j * LANES, sums[j])


cdef enum:
    STEP_ROWS = 32      # rows whose products are made together
    CACHE_LINE = 64


cdef struct CellWeights:
    int cell                    # SIMPLE_RNN, LSTM or GRU
    int activation, recurrent_activation
    Py_ssize_t features, units, columns
    Matrix kernel               # in   [features, columns]
    Matrix recurrent_kernel     # in   [units, columns]
    const real *bias            # in   [columns] or NULL
    const real *second_bias     # in   the recurrent one of a GRU, a second one that is added of the others, or NULL
    bint reset_first            # the columns of a GRU's gates stand in the order r, z, n; otherwise z, r, n


cdef inline void vectors_of_cells(const int cell, const Step *s, const real *products) noexcept nogil:
    # The cells of one row of an LSTM or a GRU; products [columns] of its state
    cdef Py_ssize_t unit = 0
    cdef vec sums[PAIR][WIDTH]
    cdef int i, k, count
    while unit < s.units:
        count = PAIR if unit + PAIR * LANES <= s.units else 1
        for i in range(count):
            for k in range(state_gates(cell)):
                sums[i][k] = v_load(products + k * s.units + unit + i * LANES)
        tile_cells(cell, True, s, sums, 0, unit, count)
        unit = unit + count * LANES


cdef inline void vectors_of_outputs(const Step *s, const real *products) noexcept nogil:
    # The same of a SimpleRNN
    cdef Py_ssize_t unit = 0
    cdef vec sums[WIDTH]
    cdef int j, width
    while unit < s.units:
        width = panel_width(s.units, unit)
        for j in range(width):
            sums[j] = v_load(products + unit + j * LANES)
        simple_rnn_cells(s, sums, 0, unit, width)
        unit = unit + WIDTH * LANES


cdef struct CellRows:
    # What the steps of the rows of a packed batch read and write
    Py_ssize_t rows, steps
    const real *x               # in   [*, features]
    const int64_t *batch_sizes  # in   [steps]
    const int64_t *offsets      # in   [steps]
    const int64_t *order        # in   [rows] row of the states
    const int64_t *index        # in   row of x of a token, or NULL
    bint zero_state
    real *h                     # in/out [rows, units]
    real *c                     # in/out [rows, units] of an LSTM
    real *sequence              # out  [tokens, units] in the order of the steps, or NULL


cdef struct CellScratch:
    real *memory
    real *panel                 # [LYING_DEPTH * WIDTH * LANES] at the start of a cache line
    real *bias                  # [columns + LANES] in the order of the cell, or NULL
    real *second_bias           # the same of a GRU, or NULL
    real *z                     # [rows, columns] products of the inputs
    real *products              # [rows, columns] those of the states, with LANES numbers behind them


cdef int make_scratch(const CellWeights *w, Py_ssize_t rows, CellScratch *scratch) except -1:
    cdef Py_ssize_t panel = LYING_DEPTH * WIDTH * LANES, columns = w.columns + LANES
    scratch.memory = <real *>malloc((panel + 2 * columns + 2 * rows * w.columns + LANES) * sizeof(real) + CACHE_LINE)
    if scratch.memory == NULL:
        raise MemoryError()
    scratch.panel = <real *>(<uintptr_t>scratch.memory + CACHE_LINE - <uintptr_t>scratch.memory % CACHE_LINE)
    scratch.bias = scratch.panel + panel if w.bias != NULL else NULL
    scratch.second_bias = scratch.panel + panel + columns if w.cell == GRU and w.bias != NULL else NULL
    scratch.z = scratch.panel + panel + 2 * columns
    scratch.products = scratch.z + rows * w.columns
    return 0


cdef void fill_biases(const CellWeights *w, const CellScratch *scratch) noexcept nogil:
    # In the order of the cell, and one of the two where all products are one sum
    cdef Py_ssize_t gate, k, source
    if w.bias == NULL:
        return
    for gate in range(input_gates(w.cell)):
        source = cell_gate(w, gate) * w.units
        memcpy(scratch.bias + gate * w.units, w.bias + source, w.units * sizeof(real))
        if scratch.second_bias != NULL:
            memcpy(scratch.second_bias + gate * w.units, w.second_bias + source, w.units * sizeof(real))
        elif w.second_bias != NULL:
            for k in range(source, source + w.units):
                scratch.bias[k] = w.bias[k] + w.second_bias[k]


cdef inline Py_ssize_t cell_gate(const CellWeights *w, Py_ssize_t gate) noexcept nogil:
    # Where a gate stands in the weights
    return 1 - gate if w.reset_first and gate < 2 else gate


cdef void cell_product(const CellWeights *w, const Matrix *matrix, const Product *p, Py_ssize_t rows,
                       real *panel) noexcept nogil:
    # The first rows of a product with a kernel, gates in the order of the cell
    cdef Matrix part = matrix[0]
    cdef Product of_part = p[0]
    cdef Py_ssize_t gate
    part.depth = p.depth
    if not w.reset_first:
        product_as_it_lies(p, &part, rows, panel)
        return
    of_part.columns = part.columns = w.units
    for gate in range(input_gates(w.cell)):
        part.numbers = matrix.numbers + cell_gate(w, gate) * w.units * matrix.column_stride
        of_part.out = p.out + gate * w.units
        of_part.start = p.start + gate * w.units if p.start != NULL else NULL
        product_as_it_lies(&of_part, &part, rows, panel)


cdef void product_as_it_lies(const Product *p, const Matrix *m, Py_ssize_t rows, real *panel) noexcept nogil:
    cdef Py_ssize_t i
    if m.column_stride == 1:
        for i in range(rows):
            row_product(p.x + indexed(p.x_index, i) * p.x_stride, m, p.start, p.out + i * p.out_stride)
    elif rows == 1 and m.row_stride == 1 and m.columns >= LANES:
        column_product(p.x + indexed(p.x_index, 0) * p.x_stride, m, p.start, p.out)
    else:
        lying_product(p, m, rows, panel)


cdef void row_cells(const CellWeights *w, const CellRows *r, const real *z, const real *products, Py_ssize_t token,
                    Py_ssize_t state) noexcept nogil:
    # The cells of a token, whose row of the states begins at `state`
    cdef Step s
    s.units = w.units
    s.activation = w.activation
    s.recurrent_activation = w.recurrent_activation
    s.z = z
    s.z_index = NULL
    s.h_previous = s.h = r.h + state
    s.c_previous = s.c = r.c + state if r.c != NULL else NULL
    s.gates = NULL
    if w.cell == LSTM:
        vectors_of_cells(LSTM, &s, products)
    elif w.cell == GRU:
        vectors_of_cells(GRU, &s, products)
    else:
        vectors_of_outputs(&s, products)
    if r.sequence != NULL:
        memcpy(r.sequence + token * w.units, s.h, w.units * sizeof(real))


cdef void step_of_rows(const CellWeights *w, const CellRows *r, const CellScratch *scratch, Py_ssize_t t,
                       Py_ssize_t begin, Py_ssize_t rows) noexcept nogil:
    cdef Product p
    cdef Py_ssize_t i, token = r.offsets[t] + begin
    p.units = NULL
    p.columns = p.out_stride = w.columns
    p.out_index = NULL
    p.accumulate = p.far = False
    p.depth = p.x_stride = w.features
    p.x = r.x if r.index != NULL else r.x + token * w.features
    p.x_index = r.index + token if r.index != NULL else NULL
    p.start = scratch.bias
    p.out = scratch.z
    cell_product(w, &w.kernel, &p, rows, scratch.panel)
    p.depth = 0 if r.zero_state and t == 0 else w.units
    p.x_stride = w.units
    p.x = r.h
    p.x_index = r.order + begin
    p.start = scratch.second_bias
    p.out = scratch.products
    cell_product(w, &w.recurrent_kernel, &p, rows, scratch.panel)
    for i in range(rows):
        row_cells(w, r, scratch.z + i * w.columns, scratch.products + i * w.columns, token + i,
                  r.order[begin + i] * w.units)


cdef int run_rows(const CellWeights *w, const CellRows *r) except -1:
    cdef uint64_t mode
    cdef CellScratch scratch
    cdef Py_ssize_t t, begin, rows
    make_scratch(w, min(r.rows, <Py_ssize_t>STEP_ROWS), &scratch)
    with nogil:
        fill_biases(w, &scratch)
        mode = flush_denormals()
        for t in range(r.steps):
            begin = 0
            while begin < r.batch_sizes[t]:
                rows = min(r.batch_sizes[t] - begin, <Py_ssize_t>STEP_ROWS)
                step_of_rows(w, r, &scratch, t, begin, rows)
                begin = begin + rows
        set_float_mode(mode)
    free(scratch.memory)
    return 0


cdef class Cell:
    """A recurrent layer's weights, which are not copied: a call uses what stands in them then.

    cell: SIMPLE_RNN, LSTM or GRU, which resets after the product. codes: of its activations. kernel [features, columns]
    and recurrent_kernel [units, columns]: in any order of memory, fastest by rows or by columns. biases: none; one
    [columns]; or two, which belong to the inputs and the states of a GRU, and are added for the other cells.
    reset_first: the gates of a GRU stand in the order r, z, n, as in PyTorch, and not z, r, n.
    """

    cdef CellWeights weights
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self, int cell, tuple codes, kernel, recurrent_kernel, tuple biases, bint reset_first):
        cdef CellWeights *w = &self.weights
        self.owners = kernel, recurrent_kernel, biases
        w.cell = cell
        w.activation, w.recurrent_activation = codes
        w.reset_first = reset_first
        set_matrix(&w.kernel, kernel)
        set_matrix(&w.recurrent_kernel, recurrent_kernel)
        w.features = w.kernel.depth
        w.units = w.recurrent_kernel.depth
        w.columns = w.kernel.columns
        w.bias = numbers_of(biases[0]) if len(biases) > 0 else NULL
        w.second_bias = numbers_of(biases[1]) if len(biases) > 1 else NULL

    def run(self, const real[:, ::1] x, const int64_t[::1] index, tuple plan, tuple states, real[:, ::1] sequence,
            bint zero_state):
        """Run over a packed batch, of which token n stands at x[index[n]], or at x[n] if the index is None.

        plan: batch sizes, offsets and the order of rows: row i of the packed batch is row order[i]. states: h and of an
        LSTM c [rows, units], which go from the initial to the final ones, in the order of the batch. sequence [tokens,
        units] takes the outputs; it may be None.
        """
        cdef CellRows r
        cdef const int64_t[::1] batch_sizes = plan[0], offsets = plan[1], order = plan[2]
        if batch_sizes.shape[0] == 0 or self.weights.units == 0:
            return
        r.rows = order.shape[0]
        r.steps = batch_sizes.shape[0]
        r.x = &x[0, 0]
        r.batch_sizes = &batch_sizes[0]
        r.offsets = &offsets[0]
        r.order = &order[0]
        r.index = &index[0] if index is not None else NULL
        r.zero_state = zero_state
        r.sequence = &sequence[0, 0] if sequence is not None else NULL
        set_cell_states(&r, states)
        run_rows(&self.weights, &r)


cdef int set_cell_states(CellRows *r, tuple states) except -1:
    cdef real[:, ::1] h = states[0]
    cdef real[:, ::1] c = states[1] if len(states) == 2 else None
    r.h = &h[0, 0]
    r.c = &c[0, 0] if c is not None else NULL
    return 0


cdef int set_matrix(Matrix *m, const real[:, :] matrix) except -1:
    m.depth = matrix.shape[0]
    m.columns = matrix.shape[1]
    m.numbers = &matrix[0, 0] if m.depth > 0 and m.columns > 0 else NULL
    m.row_stride = matrix.strides[0] // <Py_ssize_t>sizeof(real)
    m.column_stride = matrix.strides[1] // <Py_ssize_t>sizeof(real)
    return 0
