# Recurrent dropout: products whose left-hand side (forwards) or result (backwards) is multiplied by a mask for each
# row, one mask for all gates or one for each.

cdef struct MaskedProduct:
    Py_ssize_t groups, rows, units
    const real *masks           # in   [groups, rows, units]
    const real *panels          # in   [groups, panel_size] for each group its columns of the recurrent kernel
    Py_ssize_t panel_size
    const real *transposed      # in   [groups, transposed_size]
    Py_ssize_t transposed_size
    const real *reset_mask      # in   [rows, units] or NULL


cdef class RecurrentDropout:
    """The masks of recurrent dropout for the rows of a batch, and the recurrent kernel as it meets them.

    masks: [groups, rows, units]; panels and transposed: for each group those of its columns of the recurrent kernel,
    and of their transpose, which only a backward pass needs. reset_mask: of GRU_RESET_BEFORE, [rows, units] for r * h.
    """

    cdef MaskedProduct product
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self, const real[:, :, ::1] masks, const real[:, ::1] panels, const real[:, ::1] transposed,
                  const real[:, ::1] reset_mask):
        cdef MaskedProduct *p = &self.product
        self.owners = masks, panels, transposed, reset_mask
        p.groups = masks.shape[0]
        p.rows = masks.shape[1]
        p.units = masks.shape[2]
        p.masks = &masks[0, 0, 0]
        p.panels = &panels[0, 0]
        p.panel_size = panels.shape[1]
        if transposed is not None:
            p.transposed = &transposed[0, 0]
            p.transposed_size = transposed.shape[1]
        if reset_mask is not None:
            p.reset_mask = &reset_mask[0, 0]


cdef void multiply_masked(const real *x, const real *mask, real *out, Py_ssize_t count, bint add) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = (out[k] if add else 0) + x[k] * mask[k]


cdef void masked_forward(const MaskedProduct *m, const real *h, Py_ssize_t row, Py_ssize_t rows, real *scratch,
                         real *out, Py_ssize_t columns) noexcept nogil:
    # out[rows, columns] += (h * mask) @ U, group by group; scratch [rows, units]. row: of the masks
    cdef Product p
    cdef Py_ssize_t g
    p.depth = m.units
    p.columns = columns // m.groups
    p.x = scratch
    p.x_stride = m.units
    p.x_index = NULL
    p.out_index = NULL
    p.start = NULL
    p.out_stride = columns
    p.accumulate = True
    p.far = False
    p.units = NULL
    for g in range(m.groups):
        multiply_masked(h, m.masks + (g * m.rows + row) * m.units, scratch, rows * m.units, False)
        p.panels = m.panels + g * m.panel_size
        p.out = out + g * p.columns
        product(&p, 0, rows)


cdef void masked_backward(const MaskedProduct *m, const real *d, Py_ssize_t stride, Py_ssize_t row, Py_ssize_t rows,
                          real *scratch, real *out, Py_ssize_t columns) noexcept nogil:
    # out[rows, units] = sum over groups of mask * (d[rows, columns] @ transposed U)
    cdef Product p
    cdef Py_ssize_t g
    p.depth = columns // m.groups
    p.columns = m.units
    p.x_stride = stride
    p.x_index = NULL
    p.out_index = NULL
    p.start = NULL
    p.out = scratch
    p.out_stride = m.units
    p.accumulate = False
    p.far = False
    p.units = NULL
    for g in range(m.groups):
        p.x = d + g * p.depth
        p.panels = m.transposed + g * m.transposed_size
        product(&p, 0, rows)
        multiply_masked(scratch, m.masks + (g * m.rows + row) * m.units, out, rows * m.units, g > 0)
