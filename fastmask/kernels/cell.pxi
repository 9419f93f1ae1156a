# Steps of a few rows. The weights are read once for each token, so they are taken as they lie: packing them would
# cost more than the steps.

cdef void row_product(const real *x, Py_ssize_t depth, const real *matrix, Py_ssize_t columns, const real *start,
                      real *out) noexcept nogil:
    # out = start (or zeros) + x @ matrix [depth, columns], each sum in the order of the other products
    cdef Py_ssize_t column = 0
    while column + PANELS * WIDTH * LANES <= columns:
        row_vectors(PANELS * WIDTH, x, depth, matrix, columns, start, out, column)
        column = column + PANELS * WIDTH * LANES
    # Few chains of additions leave the multipliers idle, so what is left is taken in the largest pieces there are.
    if PANELS * WIDTH > 8 and column + 8 * LANES <= columns:
        row_vectors(8, x, depth, matrix, columns, start, out, column)
        column = column + 8 * LANES
    if column + 4 * LANES <= columns:
        row_vectors(4, x, depth, matrix, columns, start, out, column)
        column = column + 4 * LANES
    if column + 2 * LANES <= columns:
        row_vectors(2, x, depth, matrix, columns, start, out, column)
        column = column + 2 * LANES
    if column + LANES <= columns:
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


cdef struct CellWeights:
    Py_ssize_t features, units
    int gates                   # 1: SimpleRNN, 3: GRU that resets after the product, 4: LSTM
    int activation, recurrent_activation
    const real *kernel          # in   [features, gates * units]
    const real *recurrent_kernel  # in [units, gates * units]
    const real *bias            # in   [gates * units], of a GRU [2, gates * units], or NULL


cdef inline void simple_rnn_outputs(const CellWeights *w, const real *inputs, const real *products,
                                    real *h) noexcept nogil:
    cdef Py_ssize_t unit = 0
    cdef vec y
    cdef int n
    while unit < w.units:
        n = lanes_left(w.units, unit)
        y = load(inputs + unit, n) + load(products + unit, n)
        squash(False, w.activation, 1, &y)
        store(h + unit, y, n)
        unit = unit + LANES


cdef inline void lstm_outputs(const CellWeights *w, const real *inputs, const real *products, real *h,
                              real *c) noexcept nogil:
    cdef LstmStep s
    cdef Py_ssize_t unit = 0
    cdef vec z[PAIR][WIDTH]
    cdef int i, k, count
    s.units = w.units
    s.activation = w.activation
    s.recurrent_activation = w.recurrent_activation
    s.z = inputs
    s.z_index = NULL
    s.c_previous = s.c = c
    s.h = h
    s.gates = NULL
    while unit < w.units:
        count = PAIR if unit + PAIR * LANES <= w.units else 1
        for i in range(count):
            for k in range(4):
                z[i][k] = v_load(products + k * w.units + unit + i * LANES)
        lstm_tile(True, &s, z, 0, unit, count)
        unit = unit + count * LANES


cdef inline void gru_outputs(const CellWeights *w, const real *inputs, const real *products, real *h) noexcept nogil:
    cdef Py_ssize_t unit = 0, units = w.units
    cdef vec gates[2]           # z, r
    cdef vec n, before
    cdef int k
    while unit < units:
        k = lanes_left(units, unit)
        gates[0] = load(inputs + unit, k) + load(products + unit, k)
        gates[1] = load(inputs + units + unit, k) + load(products + units + unit, k)
        squash(False, w.recurrent_activation, 2, gates)
        n = v_fma(gates[1], load(products + 2 * units + unit, k), load(inputs + 2 * units + unit, k))
        squash(False, w.activation, 1, &n)
        before = load(h + unit, k)
        store(h + unit, v_fma(gates[0], before - n, n), k)
        unit = unit + LANES


cdef void cell_step(const CellWeights *w, const real *x, bint zero_state, real *scratch, real *h,
                    real *c) noexcept nogil:
    # One step of one row. scratch: [2, gates * units + LANES]
    cdef Py_ssize_t columns = w.gates * w.units
    cdef real *products = scratch + columns + LANES
    row_product(x, w.features, w.kernel, columns, w.bias, scratch)
    row_product(h, 0 if zero_state else w.units, w.recurrent_kernel, columns,
                w.bias + columns if w.gates == 3 and w.bias != NULL else NULL, products)
    if w.gates == 4:
        lstm_outputs(w, scratch, products, h, c)
    elif w.gates == 3:
        gru_outputs(w, scratch, products, h)
    else:
        simple_rnn_outputs(w, scratch, products, h)


cdef struct CellRows:
    # What the steps of some rows read and write. Step t of a row has its place in a padded grid [rows, steps],
    # or, in a packed batch, behind the offset of that step.
    Py_ssize_t rows, steps
    const real *x               # in   [*, features]
    const uint8_t *mask         # in   [rows, steps], or NULL: all steps count
    bint backwards              # steps of the grid from the last to the first
    const int64_t *batch_sizes  # in   [steps], or NULL: a grid
    const int64_t *offsets      # in   [steps]
    const int64_t *order        # in   [rows] row of the states
    const int64_t *index        # in   row of x of a token, or NULL
    bint zero_state
    real *h                     # in/out [rows, units]
    real *c                     # in/out [rows, units] of an LSTM
    real *sequence              # out  [*, units] in the order of the steps, or NULL


cdef inline Py_ssize_t cell_place(const CellRows *r, Py_ssize_t row, Py_ssize_t t) noexcept nogil:
    # -1 where the row has no step
    cdef Py_ssize_t cell
    if r.batch_sizes != NULL:
        return place(r.index, r.offsets[t] + row) if row < r.batch_sizes[t] else -1
    cell = row * r.steps + (r.steps - 1 - t if r.backwards else t)
    return -1 if r.mask != NULL and r.mask[cell] == 0 else cell


cdef void run_row(const CellWeights *w, const CellRows *r, Py_ssize_t row, real *scratch) noexcept nogil:
    cdef Py_ssize_t t, cell, state = place(r.order, row) * w.units
    cdef real *out
    cdef bint begun = False
    for t in range(r.steps):
        cell = cell_place(r, row, t)
        if cell >= 0:
            cell_step(w, r.x + cell * w.features, r.zero_state and not begun, scratch, r.h + state,
                      r.c + state if r.c != NULL else NULL)
            begun = True
        elif r.batch_sizes != NULL:
            return
        if r.sequence != NULL:
            out = r.sequence + (row * r.steps + t if r.batch_sizes == NULL else r.offsets[t] + row) * w.units
            if begun:
                memcpy(out, r.h + state, w.units * sizeof(real))
            else:
                memset(out, 0, w.units * sizeof(real))


cdef int run_rows(const CellWeights *w, const CellRows *r) except -1:
    cdef uint64_t mode
    cdef Py_ssize_t row
    cdef real *scratch = <real *>malloc(2 * (w.gates * w.units + LANES) * sizeof(real))
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

    gates: 1 for a SimpleRNN, 3 for a GRU that resets after the product, 4 for an LSTM.
    """

    cdef CellWeights weights
    cdef object owners

    def __init__(self, int gates, const real[:, ::1] kernel, const real[:, ::1] recurrent_kernel, const real[::1] bias,
                 int activation, int recurrent_activation):
        self.owners = [kernel, recurrent_kernel, bias]
        self.weights.gates = gates
        self.weights.features = kernel.shape[0]
        self.weights.units = recurrent_kernel.shape[0]
        self.weights.activation = activation
        self.weights.recurrent_activation = recurrent_activation
        self.weights.kernel = &kernel[0, 0] if kernel.shape[0] > 0 else NULL
        self.weights.recurrent_kernel = &recurrent_kernel[0, 0] if recurrent_kernel.shape[0] > 0 else NULL
        self.weights.bias = &bias[0] if bias is not None and bias.shape[0] > 0 else NULL

    def run_grid(self, const real[:, :, ::1] x, const uint8_t[:, ::1] mask, bint backwards, bint zero_state,
                 real[:, ::1] h, real[:, ::1] c, real[:, :, ::1] sequence):
        """Run over a padded batch x [rows, steps, features]; h and c go from the initial to the final states.

        mask of None: all steps count. c is that of an LSTM. sequence [rows, steps, units]: where to put the outputs
        in the order of the steps, at a masked step the last one before it or zeros; or None.
        """
        cdef CellRows r
        if x.shape[0] == 0 or x.shape[1] == 0 or self.weights.units == 0:
            return
        r.rows = x.shape[0]
        r.steps = x.shape[1]
        r.x = &x[0, 0, 0]
        r.mask = &mask[0, 0] if mask is not None else NULL
        r.backwards = backwards
        r.batch_sizes = r.offsets = r.order = r.index = NULL
        r.zero_state = zero_state
        r.h = &h[0, 0]
        r.c = &c[0, 0] if c is not None else NULL
        r.sequence = &sequence[0, 0, 0] if sequence is not None else NULL
        run_rows(&self.weights, &r)

    def run_packed(self, const real[:, ::1] x, const int64_t[::1] index, const int64_t[::1] batch_sizes,
                   const int64_t[::1] offsets, const int64_t[::1] order, bint zero_state, real[:, ::1] h,
                   real[:, ::1] c, real[:, ::1] sequence):
        """Run over a packed batch, of which token n stands at x[index[n]], or at x[n] if the index is None.

        h and c [rows, units] go from the initial to the final states, in the order of the batch: the row at place i
        of the packed batch is row order[i]. sequence [tokens, units] takes the outputs; it may be None.
        """
        cdef CellRows r
        if batch_sizes.shape[0] == 0 or self.weights.units == 0:
            return
        r.rows = order.shape[0]
        r.steps = batch_sizes.shape[0]
        r.x = &x[0, 0]
        r.mask = NULL
        r.backwards = False
        r.batch_sizes = &batch_sizes[0]
        r.offsets = &offsets[0]
        r.order = &order[0]
        r.index = &index[0] if index is not None else NULL
        r.zero_state = zero_state
        r.h = &h[0, 0]
        r.c = &c[0, 0] if c is not None else NULL
        r.sequence = &sequence[0, 0] if sequence is not None else NULL
        run_rows(&self.weights, &r)
