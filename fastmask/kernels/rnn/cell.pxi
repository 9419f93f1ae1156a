# Steps of a few rows. The weights are read once for each token, so they are taken as they lie: packing them would
# cost more than the steps.

cdef void row_product(const real *x, Py_ssize_t depth, const real *matrix, Py_ssize_t columns, const real *start,
                      real *out) noexcept nogil:
    # out = start (or zeros) + x @ matrix [depth, columns], each sum in the order of the other products
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t column = 0
    t.depth = depth
    t.x[0] = x
    t.panel_stride = columns
    t.start_step = 0 if start == NULL else LANES
    while column + PANELS * WIDTH * LANES <= columns:
        row_vectors(PANELS, WIDTH, matrix, start, out, column, &zero, &t)
        column = column + PANELS * WIDTH * LANES
    # Few chains of additions leave the multipliers idle, so what is left is taken in the largest pieces there are.
    if PANELS > 2 and column + 2 * WIDTH * LANES <= columns:
        row_vectors(2, WIDTH, matrix, start, out, column, &zero, &t)
        column = column + 2 * WIDTH * LANES
    if column + 4 * LANES <= columns:
        row_vectors(1, 4, matrix, start, out, column, &zero, &t)
        column = column + 4 * LANES
    if column + 2 * LANES <= columns:
        row_vectors(1, 2, matrix, start, out, column, &zero, &t)
        column = column + 2 * LANES
    if column + LANES <= columns:
        row_vectors(1, 1, matrix, start, out, column, &zero, &t)
        column = column + LANES
    if column < columns:
        row_tail(x, depth, matrix, columns, start, out, column)


cdef inline void row_vectors(const int groups, const int width, const real *matrix, const real *start, real *out,
                             Py_ssize_t column, const vec *zero, Tile *t) noexcept nogil:
    cdef int i
    t.panel = matrix + column
    for i in range(groups):
        t.start[i] = <const real *>zero if start == NULL else start + column + i * width * LANES
        t.out[i] = out + column + i * width * LANES
    multiply(groups, width, UNPACKED, t)


cdef void row_tail(const real *x, Py_ssize_t depth, const real *matrix, Py_ssize_t columns, const real *start,
                   real *out, Py_ssize_t column) noexcept nogil:
    cdef int n = lanes_left(columns, column)
    cdef vec a = v_set1(0.0) if start == NULL else load(start + column, n)
    cdef Py_ssize_t k
    for k in range(depth):
        a = v_fma(v_set1(x[k]), load(matrix + k * columns + column, n), a)
    store(out + column, a, n)


cdef struct CellWeights:
    int cell                    # SIMPLE_RNN, LSTM or GRU
    int activation, recurrent_activation
    Py_ssize_t features, units, columns
    const real *kernel          # in   [features, columns]
    const real *recurrent_kernel  # in [units, columns]
    const real *bias            # in   [columns], of a GRU [2, columns], or NULL


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


cdef void cell_step(const CellWeights *w, const Step *s, const real *x, real *z, real *products) noexcept nogil:
    # One step of one row. z, which s reads, and products: scratch [columns + LANES]
    row_product(x, w.features, w.kernel, w.columns, w.bias, z)
    row_product(s.h_previous, s.depth, w.recurrent_kernel, w.columns,
                w.bias + w.columns if w.cell == GRU and w.bias != NULL else NULL, products)
    if w.cell == LSTM:
        vectors_of_cells(LSTM, s, products)
    elif w.cell == GRU:
        vectors_of_cells(GRU, s, products)
    else:
        vectors_of_outputs(s, products)


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


cdef void run_row(const CellWeights *w, const CellRows *r, Py_ssize_t row, real *scratch) noexcept nogil:
    # scratch: [2, columns + LANES]
    cdef Step s
    cdef Py_ssize_t t, token, state = indexed(r.order, row) * w.units
    s.units = w.units
    s.activation = w.activation
    s.recurrent_activation = w.recurrent_activation
    s.z = scratch
    s.z_index = NULL
    s.h_previous = s.h = r.h + state
    s.c_previous = s.c = r.c + state if r.c != NULL else NULL
    s.gates = NULL
    for t in range(r.steps):
        if row >= r.batch_sizes[t]:
            return
        token = r.offsets[t] + row
        s.depth = 0 if r.zero_state and t == 0 else w.units
        cell_step(w, &s, r.x + indexed(r.index, token) * w.features, scratch, scratch + w.columns + LANES)
        if r.sequence != NULL:
            memcpy(r.sequence + token * w.units, s.h, w.units * sizeof(real))


cdef int run_rows(const CellWeights *w, const CellRows *r) except -1:
    cdef uint64_t mode
    cdef Py_ssize_t row
    cdef real *scratch = <real *>malloc(2 * (w.columns + LANES) * sizeof(real))
    if scratch == NULL:
        raise MemoryError()
    with nogil:
        mode = flush_denormals()
        for row in range(r.rows):
            run_row(w, r, row, scratch)
        set_float_mode(mode)
    free(scratch)
    return 0


cdef class Cell:
    """A recurrent layer's weights, which are not copied: a call uses what stands in them then.

    cell: SIMPLE_RNN, LSTM or GRU, which resets after the product.
    """

    cdef CellWeights weights
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self, int cell, int activation, int recurrent_activation, kernel, recurrent_kernel, bias):
        self.owners = kernel, recurrent_kernel, bias
        self.weights.cell = cell
        self.weights.activation = activation
        self.weights.recurrent_activation = recurrent_activation
        self.set_weights(kernel, recurrent_kernel, bias)

    cdef set_weights(self, const real[:, ::1] kernel, const real[:, ::1] recurrent_kernel, const real[::1] bias):
        self.weights.features = kernel.shape[0]
        self.weights.units = recurrent_kernel.shape[0]
        self.weights.columns = kernel.shape[1]
        self.weights.kernel = &kernel[0, 0] if kernel.shape[0] > 0 else NULL
        self.weights.recurrent_kernel = &recurrent_kernel[0, 0] if recurrent_kernel.shape[0] > 0 else NULL
        self.weights.bias = numbers_of(bias)

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
