# Gradients of inputs and weights in one call, for work that is not shared out among threads.

def recurrence_scratch_size(Py_ssize_t features, Py_ssize_t units, Py_ssize_t columns):
    """Numbers of scratch that recurrence_gradients needs for kernels of so many columns."""
    return max(columns * ((features + LANES - 1) // LANES * LANES), gradient_scratch(max(features, units), columns))


cdef void transposed_product(Product *p, const real *d, const Matrix *transposed, Py_ssize_t tokens,
                             real *scratch) noexcept nogil:
    # p.out = d @ transposed, or += if p accumulates
    pack(transposed, scratch, WIDTH * LANES, LANES, (p.columns + WIDTH * LANES - 1) // (WIDTH * LANES), WIDTH)
    p.depth = transposed.depth
    p.x = d
    p.panels = scratch
    product(p, 0, tokens)


def recurrence_gradients(Recurrence run, const real[:, ::1] d, const real[:, :] kernel, Py_ssize_t split_at,
                         real[:, ::1] dx, real[:, ::1] dkernel, real[::1] dbias, const real[:, ::1] h,
                         const int64_t[::1] previous, Py_ssize_t first_token, Py_ssize_t first_column,
                         real[:, ::1] drecurrent, real[::1] drecurrent_bias, real[::1] scratch):
    """Fill gradients from d [tokens, *], those of pre-activations, with what separate products would give.

    The first columns of d belong to the inputs, those from first_column on to the states h[previous]. A sum over
    the inputs' columns begins with column split_at; the columns before it come last. Tokens before first_token come
    after states of zeros. There is a token, a feature and a unit.
    """
    cdef uint64_t mode
    cdef Product p
    cdef GradientProduct g
    cdef Matrix transposed
    cdef Py_ssize_t tokens = d.shape[0]
    transposed.columns = kernel.shape[0]
    transposed.depth = kernel.shape[1] - split_at
    transposed.numbers = &kernel[0, split_at]
    transposed.row_stride = kernel.strides[1] // <Py_ssize_t>sizeof(real)
    transposed.column_stride = kernel.strides[0] // <Py_ssize_t>sizeof(real)
    p.x_stride = d.shape[1]
    p.x_index = NULL
    p.start = NULL
    p.columns = p.out_stride = dx.shape[1]
    p.out = &dx[0, 0]
    p.out_index = run.inputs.rows
    p.accumulate = False
    g.d_stride = d.shape[1]
    with nogil:
        mode = flush_denormals()
        transposed_product(&p, &d[0, split_at], &transposed, tokens, &scratch[0])
        if split_at > 0:
            p.accumulate = True
            transposed.depth = split_at
            transposed.numbers = &kernel[0, 0]
            transposed_product(&p, &d[0, 0], &transposed, tokens, &scratch[0])
        g.x = run.inputs.product.x
        g.x_index = run.inputs.rows
        g.x_stride = run.inputs.product.x_stride
        g.d = &d[0, 0]
        fill_gradient(&g, dkernel, dbias, 0, tokens, &scratch[0])
        g.x = &h[0, 0]
        g.x_index = &previous[0]
        g.x_stride = h.shape[1]
        g.d = &d[0, first_column]
        fill_gradient(&g, drecurrent, drecurrent_bias, first_token, tokens, &scratch[0])
        set_float_mode(mode)


cdef void fill_gradient(GradientProduct *g, real[:, ::1] out, real[::1] bias, Py_ssize_t begin, Py_ssize_t end,
                        real *scratch) noexcept nogil:
    g.units = out.shape[0]
    g.columns = out.shape[1]
    g.out = &out[0, 0]
    g.bias = NULL
    memset(g.out, 0, g.units * g.columns * sizeof(real))
    if bias is not None:
        g.bias = &bias[0]
        memset(g.bias, 0, g.columns * sizeof(real))
    add_gradient(g, begin, end, 0, (g.columns + WIDTH * LANES - 1) // (WIDTH * LANES), scratch)
