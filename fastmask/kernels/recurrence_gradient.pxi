# Gradients of inputs and weights in one call, for work that is not shared out among threads.

def recurrence_scratch_size(Py_ssize_t features, Py_ssize_t units, Py_ssize_t columns):
    """Numbers of scratch that recurrence_gradients needs for kernels of so many columns."""
    return max(columns * ((features + LANES - 1) // LANES * LANES), gradient_scratch(max(features, units), columns))


def recurrence_gradients(Recurrence run, const real[:, ::1] d, const real[:, :] kernel, real[:, ::1] dx,
                         real[:, ::1] dkernel, real[::1] dbias, const real[:, ::1] h, Py_ssize_t first_token,
                         Py_ssize_t first, real[:, ::1] drecurrent, real[::1] drecurrent_bias, real[::1] scratch):
    """Fill gradients from d [tokens, *], those of pre-activations, with what separate products would give.

    The run has all rows. The columns of d from the first on belong to the states before the tokens, in h, and those
    to the inputs that stand there in the order of the kernel's columns, the last of which belong to the columns of d
    before the first. Tokens before first_token come after states of zeros. There is a token, a feature and a unit.
    """
    cdef uint64_t mode
    cdef GradientProduct g
    cdef Py_ssize_t tokens = d.shape[0], rest = kernel.shape[1] - first
    cdef int64_t *previous = <int64_t *>malloc(tokens * sizeof(int64_t))
    if previous == NULL:
        raise MemoryError()
    g.d_stride = d.shape[1]
    with nogil:
        mode = flush_denormals()
        input_gradient(run, d, kernel, first, dx, &scratch[0])
        g.x = run.inputs.product.x
        g.x_index = run.inputs.rows
        g.x_stride = run.inputs.product.x_stride
        g.d = &d[0, first]
        fill_gradient(&g, dkernel, dbias, 0, rest, 0, tokens, &scratch[0])
        if first > 0:
            g.d = &d[0, 0]
            fill_gradient(&g, dkernel, dbias, rest, first, 0, tokens, &scratch[0])
        find_previous(run.shard.batch_sizes, run.shard.steps, run.shard.rows, previous)
        g.x = &h[0, 0]
        g.x_index = previous
        g.x_stride = h.shape[1]
        g.d = &d[0, first]
        fill_gradient(&g, drecurrent, drecurrent_bias, 0, drecurrent.shape[1], first_token, tokens, &scratch[0])
        set_float_mode(mode)
    free(previous)


cdef void input_gradient(Recurrence run, const real[:, ::1] d, const real[:, :] kernel, Py_ssize_t first,
                         real[:, ::1] dx, real *scratch) noexcept nogil:
    cdef Product p
    cdef Py_ssize_t rest = kernel.shape[1] - first
    p.x_stride = d.shape[1]
    p.x_index = NULL
    p.start = NULL
    p.columns = p.out_stride = dx.shape[1]
    p.out = &dx[0, 0]
    p.out_index = run.inputs.rows
    p.accumulate = False
    p.far = False
    transposed_product(&p, d, first, kernel, 0, rest, scratch)
    if first > 0:
        p.accumulate = True
        transposed_product(&p, d, 0, kernel, rest, first, scratch)


cdef void transposed_product(Product *p, const real[:, ::1] d, Py_ssize_t d_begin, const real[:, :] kernel,
                             Py_ssize_t begin, Py_ssize_t count, real *scratch) noexcept nogil:
    # p.out = d @ transposed kernel over so many columns, or += if p accumulates
    cdef Matrix transposed
    transposed.depth = p.depth = count
    transposed.columns = p.columns
    transposed.numbers = &kernel[0, begin]
    transposed.row_stride = kernel.strides[1] // <Py_ssize_t>sizeof(real)
    transposed.column_stride = kernel.strides[0] // <Py_ssize_t>sizeof(real)
    pack(&transposed, scratch, WIDTH * LANES, LANES, (p.columns + WIDTH * LANES - 1) // (WIDTH * LANES), WIDTH)
    p.x = &d[0, d_begin]
    p.panels = scratch
    product(p, 0, d.shape[0])


cdef void fill_gradient(GradientProduct *g, real[:, ::1] out, real[::1] bias, Py_ssize_t column, Py_ssize_t columns,
                        Py_ssize_t begin, Py_ssize_t end, real *scratch) noexcept nogil:
    # So many columns from one on
    g.units = out.shape[0]
    g.columns = columns
    g.out = &out[0, column]
    g.out_stride = out.shape[1]
    g.bias = &bias[column] if bias is not None else NULL
    add_gradient(g, begin, end, 0, (g.columns + WIDTH * LANES - 1) // (WIDTH * LANES), scratch)
