# Gradients of weights: products over all tokens, x.T @ d.

cdef enum:
    TOKEN_BLOCK = 256   # tokens of x and d that are copied side by side into scratch
    UNIT_BLOCK = 192    # columns of x copied at a time
    UNIT_STRIDE = 208   # one vector more: a power of two would crowd a few cache sets


def gradient_scratch_size():
    """Numbers of scratch that gradient_product needs."""
    return TOKEN_BLOCK * (UNIT_STRIDE + WIDTH * LANES)


cdef struct GradientProduct:
    Py_ssize_t units            # columns of x = rows of out
    Py_ssize_t columns          # columns of d that count = columns of out
    const real *x               # in   [*, x_stride]
    const int64_t *x_index      # in   row of x of a token, or NULL
    Py_ssize_t x_stride
    const real *d               # in   [tokens, d_stride]
    Py_ssize_t d_stride
    real *out                   # in/out [units, columns]
    real *bias                  # in/out [columns] or NULL: sums of d
    real *x_block               # scratch [TOKEN_BLOCK, UNIT_STRIDE]
    real *d_block               # scratch [TOKEN_BLOCK, WIDTH * LANES]


cdef void copy_block(const GradientProduct *g, Py_ssize_t token, Py_ssize_t count, Py_ssize_t unit,
                     Py_ssize_t units) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        memcpy(g.x_block + k * UNIT_STRIDE, g.x + place(g.x_index, token + k) * g.x_stride + unit,
               units * sizeof(real))


cdef void copy_panel(const GradientProduct *g, Py_ssize_t token, Py_ssize_t count, Py_ssize_t column, int width,
                     bint add_bias) noexcept nogil:
    cdef const real *source = g.d + token * g.d_stride + column
    cdef real *target = g.d_block
    cdef vec bias[WIDTH]
    cdef vec x
    cdef Py_ssize_t k
    cdef int j
    for j in range(width):
        bias[j] = load(g.bias + column + j * LANES, lanes_left(g.columns, column + j * LANES)) if add_bias else v_set1(0.0)
    for k in range(count):
        for j in range(width):
            x = load(source + j * LANES, lanes_left(g.columns, column + j * LANES))
            v_store(target, x)
            bias[j] = bias[j] + x
            target = target + LANES
        source = source + g.d_stride
    if add_bias:
        for j in range(width):
            store(g.bias + column + j * LANES, bias[j], lanes_left(g.columns, column + j * LANES))


cdef void add_panel(const GradientProduct *g, Py_ssize_t count, Py_ssize_t unit, Py_ssize_t units,
                    Py_ssize_t column, int width) noexcept nogil:
    # out[unit : unit + units, column : ] += x_block.T @ d_block
    cdef Tile t
    cdef Py_ssize_t m = 0
    cdef real *out
    cdef int i, j, rows
    t.depth = count
    t.panel = g.d_block
    t.x_stride = UNIT_STRIDE
    t.start_step = LANES
    while m < units:
        rows = rows_left(units - m)
        t.x[0] = g.x_block + m
        for i in range(rows):
            out = g.out + (unit + m + i) * g.columns + column
            for j in range(width):
                t.sums[i][j] = load(out + j * LANES, lanes_left(g.columns, column + j * LANES))
            t.start[i] = <const real *>t.sums[i]
        run_column_tile(rows, width, &t)
        for i in range(rows):
            out = g.out + (unit + m + i) * g.columns + column
            for j in range(width):
                store(out + j * LANES, t.sums[i][j], lanes_left(g.columns, column + j * LANES))
        m = m + ROWS


def gradient_product(const real[:, :] x, const int64_t[::1] x_index, const real[:, :] d,
                     real[:, ::1] out, real[::1] bias, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t begin_panel,
                     Py_ssize_t end_panel, real[::1] scratch):
    """Add the tokens begin to end of x.T @ d to panels of columns of out (and sums of d to bias).

    x and d may be slices of columns.

    Tokens are taken in order whatever the panels, so the bits do not depend on how panels are shared out.
    """
    cdef GradientProduct g
    cdef Py_ssize_t token = begin, count, unit, units, panel, column
    g.units = out.shape[0]
    g.columns = out.shape[1]
    if begin >= end or g.columns == 0:
        return
    g.x = &x[0, 0]
    g.x_index = &x_index[0] if x_index is not None else NULL
    g.x_stride = x.strides[0] // <Py_ssize_t>sizeof(real)
    g.d = &d[0, 0]
    g.d_stride = d.strides[0] // <Py_ssize_t>sizeof(real)
    g.out = &out[0, 0]
    g.bias = &bias[0] if bias is not None else NULL
    g.x_block = &scratch[0]
    g.d_block = g.x_block + TOKEN_BLOCK * UNIT_STRIDE
    with nogil:
        while token < end:
            count = min(<Py_ssize_t>TOKEN_BLOCK, end - token)
            unit = 0
            while unit < g.units or unit == 0:
                units = min(<Py_ssize_t>UNIT_BLOCK, g.units - unit)
                copy_block(&g, token, count, unit, units)
                for panel in range(begin_panel, end_panel):
                    column = panel * WIDTH * LANES
                    copy_panel(&g, token, count, column, panel_width(g.columns, column), unit == 0 and g.bias != NULL)
                    add_panel(&g, count, unit, units, column, panel_width(g.columns, column))
                unit = unit + UNIT_BLOCK
            token = token + TOKEN_BLOCK
