# What the recurrent cells share: a thread's run, the order of its cells, recurrent dropout, gradients of states.

cdef class Recurrence:
    """One thread's share of a recurrent layer's run: the rows, the input products and scratch for their indices.

    It is a range of rows, or, with a team, one of its parts of the units of all rows.
    """

    cdef Shard shard
    cdef Inputs inputs
    cdef Slices slices
    cdef Team team
    cdef object owners          # keeps the arrays behind the pointers alive

    def __cinit__(self, tuple plan, Py_ssize_t begin, Py_ssize_t end, tuple arrays, bint by_token,
                  Py_ssize_t capacity):
        # plan: rows of the batch, batch sizes and offsets. arrays: those of set_inputs.
        self.owners = plan, arrays
        self.join(None, 0)
        self.shard.rows, batch_sizes, offsets = plan
        self.shard.begin = begin
        self.shard.end = end
        self.set_steps(batch_sizes, offsets)
        self.inputs.x_index = <int64_t *>malloc(2 * capacity * sizeof(int64_t))
        if self.inputs.x_index == NULL:
            raise MemoryError()
        self.inputs.z_index = self.inputs.x_index + capacity
        self.inputs.capacity = capacity
        self.inputs.by_token = by_token
        x, rows, panels, bias, z = arrays
        self.set_inputs(x, rows, panels, bias, z)

    def __dealloc__(self):
        free(self.inputs.x_index)
        free(self.inputs.ahead.marks)

    def divide(self, Py_ssize_t steps, Py_ssize_t tokens):
        """Have the products made in blocks of so many steps, and of so many tokens at most, half of the capacity.

        For a run of all rows, which has not begun.
        """
        cdef Ahead *ahead = &self.inputs.ahead
        ahead.steps = steps
        ahead.tokens = tokens
        ahead.room = self.inputs.capacity // tokens
        ahead.marks = <int64_t *>calloc((self.shard.steps + steps - 1) // steps, sizeof(int64_t))
        if ahead.marks == NULL:
            raise MemoryError()

    @property
    def divided(self):
        """Whether another thread may make products ahead of the steps."""
        return self.inputs.ahead.steps > 0

    def make_products(self):
        """Make products that the steps have not come to, which run in another thread, or have ended."""
        cdef uint64_t mode
        with nogil:
            mode = flush_denormals()
            make_blocks(&self.inputs, &self.shard)
            set_float_mode(mode)

    def join(self, Team team, int own):
        """Take a part of the next run of a team, which is new; a team of None: the run is one thread's."""
        cdef Slices *slices = &self.slices
        self.team = team
        memset(slices, 0, sizeof(Slices))
        slices.parts = 1
        slices.part = -1
        if team is not None:
            slices.parts = team.parts
            slices.patience = team.patience
            slices.marks = team.marks
            slices.own = own

    cdef set_steps(self, const int64_t[::1] batch_sizes, const int64_t[::1] offsets):
        self.shard.steps = batch_sizes.shape[0]
        self.shard.batch_sizes = &batch_sizes[0] if self.shard.steps > 0 else NULL
        self.shard.offsets = &offsets[0] if self.shard.steps > 0 else NULL

    cdef set_inputs(self, const real[:, ::1] x, const int64_t[::1] rows, const real[::1] panels,
                    const real[::1] bias, real[:, ::1] z):
        # x of None: z is a table of products that is there already
        cdef Inputs *inputs = &self.inputs
        cdef Product *p = &inputs.product
        inputs.table = x is None
        inputs.rows = &rows[0] if rows is not None and rows.shape[0] > 0 else NULL
        p.out = &z[0, 0] if z.shape[0] > 0 else NULL
        p.out_stride = z.shape[1]
        p.columns = z.shape[1]
        p.out_index = inputs.z_index
        p.x_index = inputs.x_index
        p.start = &bias[0] if bias is not None else NULL
        p.accumulate = False
        p.far = False
        if x is not None:
            p.depth = x.shape[1]
            p.x_stride = x.shape[1]
            p.x = &x[0, 0] if x.shape[0] > 0 and x.shape[1] > 0 else NULL
            p.panels = &panels[0] if panels.shape[0] > 0 else NULL


cdef inline Py_ssize_t cell_row(const bint across, Py_ssize_t row, int i) noexcept nogil:
    return row if across else row + i


cdef inline Py_ssize_t cell_unit(const bint across, Py_ssize_t unit, int i) noexcept nogil:
    return unit + i * LANES if across else unit


# Where all vectors of a tile are whole, which is known beforehand, their loads and stores need no choice: with it the
# cells of a GRU of 32 units took 3 % longer.

cdef inline bint whole_units(const bint across, Py_ssize_t units, Py_ssize_t unit, int count) noexcept nogil:
    return cell_unit(across, unit, count - 1 if across else 0) + LANES <= units


cdef inline int cell_lanes(const bint whole, Py_ssize_t units, Py_ssize_t unit) noexcept nogil:
    return LANES if whole else lanes_left(units, unit)


cdef enum:
    NARROW = 64         # units up to which fetching takes as long as it saves


cdef inline void fetch_cells(const Fetch how, const real *x, int gates, Py_ssize_t units, int rows,
                             int width) noexcept nogil:
    # `width` vectors of units, of so many gates that stand `units` numbers apart, come nearer while the product of
    # their rows runs: the gradients of an LSTM of 128 units took 64.6 ms without it, and 62.4 ms with it.
    cdef int gate
    for gate in range(gates):
        fetch_rows(how, x + gate * units, NULL, gates * units, 0, rows, LANES, width)


cdef struct MaskedProduct:
    # Recurrent dropout: products whose left-hand (forward) or result (backward) is multiplied by a mask per
    # row, one mask for all gates or one for each. Panels of the groups stand one behind the other.
    int groups
    Py_ssize_t units, columns, stride, panel_size
    const real *masks           # in   [groups, rows, units]
    Py_ssize_t rows
    const real *panels          # in   [groups, panel_size]
    real *scratch               # [rows, units]


cdef void copy_rows(const real *source, const int64_t *index, Py_ssize_t columns, Py_ssize_t rows,
                    real *out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        memcpy(out + i * columns, source + place(index, i) * columns, columns * sizeof(real))


cdef void multiply_masked(const real *x, const real *mask, real *out, Py_ssize_t count, bint add) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = (out[k] if add else 0) + x[k] * mask[k]


cdef void masked_forward(const MaskedProduct *m, const real *h, Py_ssize_t row, Py_ssize_t n, real *z) noexcept nogil:
    # z[n, stride] += (h * mask) @ U, gate group by gate group
    cdef Product p
    cdef int g
    p.depth = m.units
    p.columns = m.columns
    p.x = m.scratch
    p.x_stride = m.units
    p.x_index = NULL
    p.out_index = NULL
    p.start = NULL
    p.out_stride = m.stride
    p.accumulate = True
    p.far = False
    for g in range(m.groups):
        multiply_masked(h, m.masks + (g * m.rows + row) * m.units, m.scratch, n * m.units, False)
        p.panels = m.panels + g * m.panel_size
        p.out = z + g * m.columns
        product(&p, 0, n)


cdef void masked_backward(const MaskedProduct *m, const real *d, Py_ssize_t stride, Py_ssize_t row, Py_ssize_t n,
                          real *dh) noexcept nogil:
    # dh[n, units] = sum over groups of mask * (d @ transposed U)
    cdef Product p
    cdef int g
    p.depth = m.columns
    p.columns = m.units
    p.x_stride = stride
    p.x_index = NULL
    p.out_index = NULL
    p.start = NULL
    p.out = m.scratch
    p.out_stride = m.units
    p.accumulate = False
    p.far = False
    for g in range(m.groups):
        p.x = d + g * m.columns
        p.panels = m.panels + g * m.panel_size
        product(&p, 0, n)
        multiply_masked(m.scratch, m.masks + (g * m.rows + row) * m.units, dh, n * m.units, g > 0)


cdef class RecurrentDropout:
    """Recurrent dropout of one shard: masks [groups, rows, units] and scratch."""

    cdef MaskedProduct forward
    cdef MaskedProduct backward
    cdef object owners
    cdef real *z                # [rows, stride]
    cdef real *dh               # [rows, units]

    def __init__(self, const real[:, :, ::1] masks, const real[:, ::1] panels, const real[:, ::1] transposed,
                 Py_ssize_t columns, real[:, ::1] scratch, real[:, ::1] z, real[:, ::1] dh):
        self.owners = [masks, panels, transposed, scratch, z, dh]
        self.forward.groups = masks.shape[0]
        self.forward.rows = masks.shape[1]
        self.forward.units = masks.shape[2]
        self.forward.columns = columns
        self.forward.stride = z.shape[1]
        self.forward.masks = &masks[0, 0, 0]
        self.forward.scratch = &scratch[0, 0]
        self.backward = self.forward
        self.forward.panels = &panels[0, 0]
        self.forward.panel_size = panels.shape[1]
        if transposed is not None:
            self.backward.panels = &transposed[0, 0]
            self.backward.panel_size = transposed.shape[1]
        self.z = &z[0, 0]
        self.dh = &dh[0, 0]


cdef struct StateGradient:
    # Gradient of h at one step: dy plus what comes from the next step, d[next] @ transposed U, or, where a
    # row ends, from its final state. `carry` brings the final states in and takes what passes h by.
    Py_ssize_t units, stride, first, depth
    const real *panels          # in   transposed recurrent kernel, columns in panels of WIDTH vectors
    const real *d               # in   [tokens, stride]; the columns first to first + depth meet the kernel
    const real *dy              # in   [tokens, units] or NULL
    real *carry                 # in/out [rows, units]
    bint carry_everywhere       # the carry belongs to rows that go on, too
    const real *ready           # [rows, units] or NULL: products that are there already (recurrent dropout)


cdef void state_gradient(const StateGradient *s, Tile *t, Py_ssize_t token, Py_ssize_t next_token, Py_ssize_t row,
                         Py_ssize_t unit, int rows, int width, bint ends) noexcept nogil:
    # sums[i][j] = gradient of h of rows row to row + rows, vector j from unit on
    cdef Py_ssize_t column
    cdef int i, j, n
    cdef vec sum
    cdef vec zero = v_set1(0.0)
    cdef bint product = not ends and s.ready == NULL
    if product:
        start_from(&zero, t)
        for i in range(rows):
            t.x[i] = s.d + (next_token + i) * s.stride + s.first
        run_tile(rows, width, t)
    for i in range(rows):
        for j in range(width):
            column = unit + j * LANES
            n = lanes_left(s.units, column)
            sum = t.sums[i][j] if product else zero
            if not ends and s.ready != NULL:
                sum = load(s.ready + (row + i) * s.units + column, n)
            if s.dy != NULL:
                sum = sum + load(s.dy + (token + i) * s.units + column, n)
            if ends or s.carry_everywhere:
                sum = sum + load(s.carry + (row + i) * s.units + column, n)
            t.sums[i][j] = sum


cdef void initial_state_gradient(const StateGradient *s, const Shard *shard, Slices *slices, MaskedProduct *dropout,
                                 real *dh) noexcept nogil:
    # After step 0: carry += d[0] @ transposed U for the rows that have a step.
    cdef Product p
    cdef Panel panel
    cdef Py_ssize_t i, n = active_rows(shard, 0)
    cdef real *carry = s.carry + shard.begin * s.units
    if n == 0:
        return
    if dropout != NULL:
        masked_backward(dropout, s.d + shard.begin * s.stride + s.first, s.stride, shard.begin, n, dh)
        for i in range(n * s.units):
            carry[i] = (carry[i] if s.carry_everywhere else 0) + dh[i]
        return
    p.depth = s.depth
    p.columns = s.units
    p.x = s.d + shard.begin * s.stride + s.first
    p.x_stride = s.stride
    p.x_index = NULL
    p.panels = s.panels
    p.start = NULL
    p.out = carry
    p.out_index = NULL
    p.out_stride = s.units
    p.accumulate = s.carry_everywhere
    p.far = False
    while next_panel(slices, s.units, &panel):
        product_panel(&p, &panel, n)
