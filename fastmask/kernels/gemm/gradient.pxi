# Gradients of weights: products over all tokens, x.T @ d.
#
# A sum over tokens is made of chains of additions that start from zero and are added up: one chain over 40,000
# tokens loses ten times as much.

cdef enum:
    TOKEN_BLOCK = 256   # tokens taken at a time: larger blocks read and write the result less often
    UNIT_BLOCK = 1536   # columns of x taken at a time, a multiple of STRIPE: each time all of d is copied again
    STRIPE = 8 * ROWS   # columns that are copied side by side: a tile then meets few pages of memory
    CHAIN = 128         # tokens of one chain of additions to a weight
    BIAS_CHAIN = 16     # and to a bias


cdef inline Py_ssize_t gradient_scratch(Py_ssize_t units, Py_ssize_t columns) noexcept nogil:
    # Numbers of scratch that add_gradient needs for so many columns of x and of d
    cdef Py_ssize_t stripes = (min(units, <Py_ssize_t>UNIT_BLOCK) + STRIPE - 1) // STRIPE
    return TOKEN_BLOCK * (WIDTH * LANES + stripes * STRIPE) + columns


cdef struct GradientProduct:
    Py_ssize_t units            # columns of x = rows of out
    Py_ssize_t columns          # columns of d that count = columns of out
    const real *x               # in   [*, x_stride]
    const int64_t *x_index      # in   row of x of a token, or NULL
    Py_ssize_t x_stride
    const real *d               # in   [tokens, d_stride]
    Py_ssize_t d_stride
    real *out                   # out  [units, out_stride]
    Py_ssize_t out_stride
    real *bias                  # out  [columns] or NULL: sums of d
    bint begins                 # nothing stands in out yet
    real *d_block               # scratch [TOKEN_BLOCK][width][LANES]
    real *x_block               # scratch [stripes][TOKEN_BLOCK][STRIPE]
    real *bias_rest             # scratch [columns]: what additions to bias have lost
    # What is copied next comes into the second-level cache while the tiles run: the gradients of an LSTM of 128 units
    # took 70.0 ms without it, and 66.8 ms with it.
    const real *next_d          # what d_block takes next
    Py_ssize_t next_token       # rows of x of the tokens from here
    Py_ssize_t last_token       # to here are still to be prefetched,
    Py_ssize_t tokens_each      # so many before each chain


cdef void copy_block(const GradientProduct *g, Py_ssize_t token, Py_ssize_t count, Py_ssize_t unit,
                     Py_ssize_t units) noexcept nogil:
    cdef Py_ssize_t k, m
    cdef const real *source
    for k in range(count):
        source = g.x + indexed(g.x_index, token + k) * g.x_stride + unit
        m = 0
        while m < units:
            v_store(g.x_block + (m // STRIPE * TOKEN_BLOCK + k) * STRIPE + m % STRIPE,
                    load(source + m, lanes_left(units, m)))
            m = m + LANES


cdef inline void add_to(real *total, vec x, int n) noexcept nogil:
    store(total, load(total, n) + x, n)


cdef inline void add_whole(real *total, real *rest, vec x, int n) noexcept nogil:
    # Compensated addition (Kahan 1965)
    cdef vec before = load(total, n)
    cdef vec sum
    x = x - load(rest, n)
    sum = before + x
    store(rest, (sum - before) - x, n)
    store(total, sum, n)


cdef void copy_panel(const GradientProduct *g, Py_ssize_t token, Py_ssize_t count, Py_ssize_t column, int width,
                     bint add_bias) noexcept nogil:
    cdef vec sums[WIDTH]
    cdef int j
    if column + width * LANES > g.columns:
        copy_columns(width, False, g, token, count, column, sums)
    elif width == 4:
        copy_columns(4, True, g, token, count, column, sums)
    elif width == 3:
        copy_columns(3, True, g, token, count, column, sums)
    elif width == 2:
        copy_columns(2, True, g, token, count, column, sums)
    else:
        copy_columns(1, True, g, token, count, column, sums)
    if add_bias:
        for j in range(width):
            add_whole(g.bias + column + j * LANES, g.bias_rest + column + j * LANES, sums[j],
                      lanes_left(g.columns, column + j * LANES))


cdef inline void copy_columns(const int width, const bint whole, const GradientProduct *g, Py_ssize_t token,
                              Py_ssize_t count, Py_ssize_t column, vec *sums) noexcept nogil:
    # With the sums over the tokens. Where width is a literal, they stay in registers.
    cdef const real *source = g.d + token * g.d_stride + column
    cdef real *target = g.d_block
    cdef vec total[WIDTH]
    cdef vec part[WIDTH]
    cdef vec x
    cdef Py_ssize_t k
    cdef int j
    for j in range(width):
        total[j] = part[j] = v_set1(0.0)
    for k in range(count):
        for j in range(width):
            x = v_load(source + j * LANES) if whole else load(source + j * LANES,
                                                              lanes_left(g.columns, column + j * LANES))
            v_store(target + j * LANES, x)
            part[j] = part[j] + x
        if k % BIAS_CHAIN == BIAS_CHAIN - 1:
            for j in range(width):
                total[j] = total[j] + part[j]
                part[j] = v_set1(0.0)
        source = source + g.d_stride
        target = target + width * LANES
    for j in range(width):
        sums[j] = total[j] + part[j]


cdef void clear_columns(const GradientProduct *g, Py_ssize_t unit, Py_ssize_t units, Py_ssize_t column,
                        int width) noexcept nogil:
    # Right before sums are added to them, while they are in the cache
    cdef Py_ssize_t i, size = min(<Py_ssize_t>width * LANES, g.columns - column) * sizeof(real)
    for i in range(unit, unit + units):
        memset(g.out + i * g.out_stride + column, 0, size)


cdef void add_panel(GradientProduct *g, Py_ssize_t count, Py_ssize_t unit, Py_ssize_t units,
                    Py_ssize_t column, int width) noexcept nogil:
    # out[unit : unit + units, column : ] += x_block.T @ d_block
    cdef Py_ssize_t k, rows, m = 0
    while m < units:
        k = 0
        rows = min(units - m, <Py_ssize_t>STRIPE)
        if g.begins:
            clear_columns(g, unit + m, rows, column, width)
        while k < count:
            prefetch_x(g, unit, units)
            add_chain(g, k, min(count - k, <Py_ssize_t>CHAIN), unit, m, rows, column, width)
            k = k + CHAIN
        m = m + STRIPE


cdef inline void prefetch_x(GradientProduct *g, Py_ssize_t unit, Py_ssize_t units) noexcept nogil:
    cdef Py_ssize_t end = min(g.next_token + g.tokens_each, g.last_token)
    prefetch_rows(SECOND_LEVEL, g.x + unit, g.x_index, g.x_stride, g.next_token, end, LANES,
                  (units + LANES - 1) // LANES)
    g.next_token = end


cdef inline void prefetch_d(const GradientProduct *g, Py_ssize_t k, Py_ssize_t unit, int width,
                            Tile *t) noexcept nogil:
    # The tile that begins with row `unit` prefetches a vector of each token, if it is one of the first `width`.
    cdef bint some = unit < width * ROWS
    t.prefetch = g.next_d + k * g.d_stride + unit // ROWS * LANES if some else t.panel
    t.prefetch_step = g.d_stride if some else 0


cdef void add_chain(const GradientProduct *g, Py_ssize_t k, Py_ssize_t depth, Py_ssize_t unit, Py_ssize_t m,
                    Py_ssize_t units, Py_ssize_t column, int width) noexcept nogil:
    # A stripe's part from the k-th token of the blocks on. What the tiles share of d_block stays in the first-level
    # cache, and the stripe's part of out until its next chain.
    cdef Tile t
    cdef real *out = g.out + (unit + m) * g.out_stride + column
    cdef bint whole = column + width * LANES <= g.columns
    cdef int i, rows
    t.depth = depth
    t.x[0] = g.x_block + m * TOKEN_BLOCK + k * STRIPE
    t.x_stride = STRIPE
    t.panel = g.d_block + k * width * LANES
    units = m + units
    while m < units:
        rows = rows_left(units - m)
        for i in range(rows):
            t.out[i] = out + i * g.out_stride if whole else <real *>t.sums[i]
        prefetch_d(g, k, m, width, &t)
        if whole:
            run_column_tile(rows, width, &t)
        else:
            add_part(g, rows, width, column, out, &t)
        t.x[0] = t.x[0] + rows
        out = out + rows * g.out_stride
        m = m + rows


cdef void add_part(const GradientProduct *g, int rows, int width, Py_ssize_t column, real *out, Tile *t) noexcept nogil:
    # A tile whose last vector ends beyond the columns
    cdef int i, j
    for i in range(rows):
        for j in range(width):
            t.sums[i][j] = v_set1(0.0)
    run_column_tile(rows, width, t)
    for i in range(rows):
        for j in range(width):
            add_to(out + i * g.out_stride + j * LANES, t.sums[i][j], lanes_left(g.columns, column + j * LANES))


cdef class WeightGradient:
    """out = x.T @ d over the tokens from `begin` on, and bias = the sums of d over them.

    Token n is row x_index[n] of x, or row n without an index. x, d and out may be slices of columns.
    """

    cdef GradientProduct product
    cdef Py_ssize_t begin, end
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self, x, x_index, d, out, bias, Py_ssize_t begin):
        self.owners = x, x_index, d, out, bias
        self.begin = begin
        self.set_factors(x, x_index, d)
        self.set_results(out, bias)

    cdef set_factors(self, const real[:, :] x, const int64_t[::1] x_index, const real[:, :] d):
        self.end = d.shape[0]
        self.product.x = &x[0, 0] if x.shape[0] > 0 and x.shape[1] > 0 else NULL
        self.product.x_index = &x_index[0] if x_index is not None and x_index.shape[0] > 0 else NULL
        self.product.x_stride = x.strides[0] // <Py_ssize_t>sizeof(real)
        self.product.d = &d[0, 0] if d.shape[0] > 0 and d.shape[1] > 0 else NULL
        self.product.d_stride = d.strides[0] // <Py_ssize_t>sizeof(real)

    cdef set_results(self, real[:, :] out, real[::1] bias):
        self.product.units = out.shape[0]
        self.product.columns = out.shape[1]
        self.product.out = &out[0, 0] if out.shape[0] > 0 and out.shape[1] > 0 else NULL
        self.product.out_stride = out.strides[0] // <Py_ssize_t>sizeof(real)
        self.product.bias = &bias[0] if bias is not None else NULL

    def fill(self, Py_ssize_t begin_panel, Py_ssize_t end_panel):
        """Fill in the columns of some panels, of four vectors each.

        Tokens are taken in order whatever the panels, so the bits do not depend on how panels are shared out.
        """
        cdef uint64_t mode
        cdef GradientProduct g = self.product
        cdef real[::1] scratch
        if g.columns == 0:
            return
        scratch = aligned_empty(gradient_scratch(g.units, g.columns), DTYPE)
        with nogil:
            mode = flush_denormals()
            add_gradient(&g, self.begin, self.end, begin_panel, end_panel, &scratch[0])
            set_float_mode(mode)


cdef void add_gradient(GradientProduct *g, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t begin_panel,
                       Py_ssize_t end_panel, real *scratch) noexcept nogil:
    # scratch: as much as gradient_scratch says
    cdef Py_ssize_t token = begin, count, unit, units, panel, column = begin_panel * WIDTH * LANES
    g.d_block = scratch
    g.x_block = g.d_block + TOKEN_BLOCK * WIDTH * LANES
    g.bias_rest = scratch + gradient_scratch(g.units, g.columns) - g.columns
    memset(g.bias_rest, 0, g.columns * sizeof(real))
    if g.bias != NULL:
        memset(g.bias + column, 0, (min(end_panel * WIDTH * LANES, g.columns) - column) * sizeof(real))
    if begin >= end:
        for panel in range(begin_panel, end_panel):
            clear_columns(g, 0, g.units, panel * WIDTH * LANES, WIDTH)
    while token < end:
        g.begins = token == begin
        count = min(<Py_ssize_t>TOKEN_BLOCK, end - token)
        unit = 0
        while unit < g.units or unit == 0:
            units = min(<Py_ssize_t>UNIT_BLOCK, g.units - unit)
            copy_block(g, token, count, unit, units)
            g.next_token = token + count
            g.last_token = min(g.next_token + TOKEN_BLOCK, end)
            g.tokens_each = 1 + TOKEN_BLOCK // (TOKEN_BLOCK // CHAIN * max(<Py_ssize_t>1, end_panel - begin_panel)
                                                * (1 + units // STRIPE))
            add_block(g, token, count, unit, units, begin_panel, end_panel)
            unit = unit + UNIT_BLOCK
        token = token + TOKEN_BLOCK


cdef void add_block(GradientProduct *g, Py_ssize_t token, Py_ssize_t count, Py_ssize_t unit, Py_ssize_t units,
                    Py_ssize_t begin_panel, Py_ssize_t end_panel) noexcept nogil:
    cdef Py_ssize_t panel, column
    cdef int width
    for panel in range(begin_panel, end_panel):
        column = panel * WIDTH * LANES
        width = panel_width(g.columns, column)
        if panel + 1 < end_panel:
            g.next_d = g.d + token * g.d_stride + column + WIDTH * LANES
        else:
            g.next_d = g.d + (token + TOKEN_BLOCK) * g.d_stride + begin_panel * WIDTH * LANES
        copy_panel(g, token, count, column, width, unit == 0 and g.bias != NULL)
        add_panel(g, count, unit, units, column, width)
