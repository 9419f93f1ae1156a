# Gradients of inputs and weights in one call, for work that is not shared out among threads.

cdef struct WeightGradients:
    Py_ssize_t tokens
    Py_ssize_t first, rest      # see make_weight_gradients
    const real *d               # in   [tokens, d_stride]
    Py_ssize_t d_stride
    const real *h               # in   [rows + tokens, units]
    Py_ssize_t units
    int64_t *previous           # scratch [tokens]: row of h before each token
    Matrix kernel               # in   transposed: [columns, features]
    real *dx                    # out  [*, features]
    GradientProduct of_kernel, of_recurrent


cdef int set_weight_gradients(WeightGradients *g, Run run, const real[:, ::1] d, const real[:, ::1] h,
                              const real[:, :] kernel, real[:, ::1] dx) except -1:
    g.tokens = d.shape[0]
    g.first = run.program.first
    g.rest = kernel.shape[1] - g.first
    g.d = &d[0, 0]
    g.d_stride = d.shape[1]
    g.h = &h[0, 0]
    g.units = h.shape[1]
    g.kernel.depth = kernel.shape[1]
    g.kernel.columns = kernel.shape[0]
    g.kernel.numbers = &kernel[0, 0]
    g.kernel.row_stride = kernel.strides[1] // <Py_ssize_t>sizeof(real)
    g.kernel.column_stride = kernel.strides[0] // <Py_ssize_t>sizeof(real)
    g.dx = &dx[0, 0]
    return 0


cdef int set_gradient(GradientProduct *g, real[:, ::1] out, real[::1] bias) except -1:
    g.units = out.shape[0]
    g.columns = out.shape[1]
    g.out = &out[0, 0]
    g.out_stride = out.shape[1]
    g.bias = &bias[0] if bias is not None else NULL
    return 0


cdef Py_ssize_t weight_gradients_scratch(const WeightGradients *g) noexcept:
    cdef Py_ssize_t features = (g.kernel.columns + LANES - 1) // LANES * LANES
    return max(g.kernel.depth * features, gradient_scratch(max(g.kernel.columns, g.units), g.kernel.depth))


cdef void make_weight_gradients(WeightGradients *g, Run run, real *scratch) noexcept nogil:
    # With what separate products would give. The columns of d from the first on belong to the states before the tokens,
    # and those to the inputs that stand there in the order of the kernel's columns, the last of which belong to the
    # columns of d before the first.
    cdef GradientProduct *k = &g.of_kernel
    cdef GradientProduct *r = &g.of_recurrent
    cdef Py_ssize_t first_token
    k.x = run.inputs.product.x
    k.x_index = run.inputs.rows
    k.x_stride = run.inputs.product.x_stride
    k.d_stride = r.d_stride = g.d_stride
    input_gradient(g, run.inputs.rows, scratch)
    add_columns(k, g.d + g.first, 0, g.rest, 0, g.tokens, scratch)
    if g.first > 0:
        add_columns(k, g.d, g.rest, g.first, 0, g.tokens, scratch)
    find_previous(run.shard.batch_sizes, run.shard.steps, run.shard.rows, g.previous)
    r.x = g.h
    r.x_index = g.previous
    r.x_stride = g.units
    # States of zeros before the first tokens add nothing, but the tokens count in a bias.
    first_token = run.shard.batch_sizes[0] if run.zero_state and r.bias == NULL else 0
    add_columns(r, g.d + g.first, 0, r.columns, first_token, g.tokens, scratch)


cdef void input_gradient(const WeightGradients *g, const int64_t *rows, real *scratch) noexcept nogil:
    cdef Product p
    p.x_stride = g.d_stride
    p.x_index = NULL
    p.start = NULL
    p.columns = p.out_stride = g.kernel.columns
    p.out = g.dx
    p.out_index = rows
    p.accumulate = False
    p.far = False
    p.units = NULL
    transposed_product(&p, g, g.first, 0, g.rest, scratch)
    if g.first > 0:
        p.accumulate = True
        transposed_product(&p, g, 0, g.rest, g.first, scratch)


cdef void transposed_product(Product *p, const WeightGradients *g, Py_ssize_t d_begin, Py_ssize_t begin,
                             Py_ssize_t count, real *scratch) noexcept nogil:
    # p.out = d @ transposed kernel over so many columns, or += if p accumulates
    cdef Matrix some = g.kernel
    some.depth = p.depth = count
    some.numbers = g.kernel.numbers + begin * g.kernel.row_stride
    pack(&some, scratch, WIDTH * LANES, LANES, (p.columns + WIDTH * LANES - 1) // (WIDTH * LANES), WIDTH)
    p.x = g.d + d_begin
    p.panels = scratch
    product(p, 0, g.tokens)


cdef void add_columns(const GradientProduct *whole, const real *d, Py_ssize_t column, Py_ssize_t columns,
                      Py_ssize_t begin, Py_ssize_t end, real *scratch) noexcept nogil:
    # So many columns from one on
    cdef GradientProduct g = whole[0]
    g.d = d
    g.columns = columns
    g.out = whole.out + column
    g.bias = whole.bias + column if whole.bias != NULL else NULL
    add_gradient(&g, begin, end, 0, (columns + WIDTH * LANES - 1) // (WIDTH * LANES), scratch)
