# Products of rows of tokens with a packed matrix.

cdef enum:
    ROW_BLOCK = 128     # rows that share a panel while it is in the first-level cache
    LYING_DEPTH = 64    # rows of a matrix that is not packed: a piece of a panel that stays in the first-level cache


cdef struct Product:
    # out[out_index[n], :] = start + x[x_index[n], :] @ panels; an index of NULL is the identity.
    Py_ssize_t depth, columns
    const real *x               # in   [*, x_stride]
    const int64_t *x_index
    Py_ssize_t x_stride
    const real *panels          # in   columns in panels of WIDTH vectors
    const real *units           # in   [columns rounded up to LANES] of a quantised matrix, as x is then; or NULL
    const real *start           # in   [columns rounded up to LANES], or NULL: zeros
    real *out                   # out  [*, out_stride]
    const int64_t *out_index
    Py_ssize_t out_stride
    bint accumulate             # start from what stands in out
    bint far                    # x is not in a cache yet: its rows are prefetched one tile early


cdef inline Py_ssize_t indexed(const int64_t *index, Py_ssize_t n) noexcept nogil:
    return n if index == NULL else index[n]


cdef inline void start_tile(const Product *p, const vec *zero, Py_ssize_t n, Py_ssize_t column, int rows, int width,
                            bint whole, Tile *t) noexcept nogil:
    # whole: all vectors of the tile stand in out; otherwise its results go to the tile's own room.
    cdef real *out
    cdef int i, j
    t.start_step = 0 if p.start == NULL and not p.accumulate else LANES
    t.units = p.units + column if p.units != NULL else NULL
    t.units_step = LANES
    for i in range(rows):
        t.x[i] = p.x + indexed(p.x_index, n + i) * p.x_stride
        out = p.out + indexed(p.out_index, n + i) * p.out_stride + column
        t.out[i] = out if whole else <real *>t.sums[i]
        if p.accumulate:
            if not whole:
                for j in range(width):
                    t.sums[i][j] = load(out + j * LANES, lanes_left(p.columns, column + j * LANES))
            t.start[i] = t.out[i]
        else:
            t.start[i] = <const real *>zero if p.start == NULL else p.start + column


cdef void store_rest(const Product *p, Py_ssize_t n, Py_ssize_t column, int rows, int width, Tile *t) noexcept nogil:
    cdef real *out
    cdef int i, j
    for i in range(rows):
        out = p.out + indexed(p.out_index, n + i) * p.out_stride + column
        for j in range(width):
            store(out + j * LANES, t.sums[i][j], lanes_left(p.columns, column + j * LANES))


cdef enum Prefetch:
    SECOND_LEVEL, FIRST_LEVEL, TO_WRITE     # how near a line of memory comes


cdef inline void prefetch_rows(const Prefetch how, const real *x, const int64_t *index, Py_ssize_t stride,
                               Py_ssize_t begin, Py_ssize_t end, Py_ssize_t step, Py_ssize_t count) noexcept nogil:
    # `count` vectors of each of some rows, `step` numbers apart
    cdef const real *row
    cdef Py_ssize_t n, k
    for n in range(begin, end):
        row = x + indexed(index, n) * stride
        for k in range(count):
            if how == TO_WRITE:
                v_prefetch_own(row + k * step)
            elif how == FIRST_LEVEL:
                v_prefetch_near(row + k * step)
            else:
                v_prefetch(row + k * step)


cdef void product_block(const Product *p, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t column,
                        const real *panel) noexcept nogil:
    cdef Tile t
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t n = begin
    cdef int rows, width = panel_width(p.columns, column)
    cdef bint whole = column + width * LANES <= p.columns
    t.depth = p.depth
    t.panel = panel
    while n < end:
        rows = even_rows(end - n, p.units != NULL)
        start_tile(p, &zero, n, column, rows, width, whole, &t)
        if p.far and column == 0:
            prefetch_rows(SECOND_LEVEL, p.x, p.x_index, p.x_stride, n + rows, min(n + 2 * rows, end), LANES,
                          (p.depth + LANES - 1) // LANES)
        prefetch_panel(&t, panel + width * p.depth * LANES, width, n - begin)
        if p.units == NULL:
            run_tile(rows, width, &t)
        else:
            run_integer_tile(rows, width, &t)
        if not whole:
            store_rest(p, n, column, rows, width, &t)
        n = n + rows


cdef void product(const Product *p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Rows begin to end of a product.
    cdef Py_ssize_t column, n = begin
    cdef const real *panel
    while n < end:
        panel = p.panels
        column = 0
        while column < p.columns:
            product_block(p, n, min(n + ROW_BLOCK, end), column, panel)
            panel = panel + p.depth * WIDTH * LANES
            column = column + WIDTH * LANES
        n = n + ROW_BLOCK


cdef void lying_product(const Product *p, const Matrix *matrix, Py_ssize_t rows, real *room) noexcept nogil:
    # The first rows of a product with a matrix as it lies, whatever its order. Pieces of its panels are packed into
    # room [LYING_DEPTH * WIDTH * LANES] and met there, and each sum goes on from piece to piece: the bits are the same.
    cdef Product part = p[0]
    cdef PanelPart piece
    cdef Py_ssize_t k, column = 0
    part.panels = room
    set_part(matrix, LANES, &piece)
    piece.target = room
    while column < p.columns:
        part.columns = min(p.columns - column, <Py_ssize_t>WIDTH * LANES)
        part.out = p.out + column
        part.start = p.start + column if p.start != NULL else NULL
        part.accumulate = p.accumulate
        set_columns(matrix, column, panel_width(p.columns, column), &piece)
        k = 0
        while k == 0 or k < p.depth:
            part.depth = piece.depth = min(p.depth - k, <Py_ssize_t>LYING_DEPTH)
            part.x = p.x + k
            piece.source = matrix.numbers + k * matrix.row_stride
            pack_part(&piece)
            product_block(&part, 0, rows, 0, room)
            part.accumulate = True
            k = k + LYING_DEPTH
        column = column + WIDTH * LANES


cdef struct Columns:
    # Those of one panel
    Py_ssize_t begin, end
    Py_ssize_t following        # first column of the panel whose turn comes next


cdef void product_panel(const Product *p, const Columns *columns, Py_ssize_t rows) noexcept nogil:
    # The columns of a panel of the first rows of a product
    cdef Product part = p[0]
    part.columns = columns.end - columns.begin
    part.panels = p.panels + columns.begin * p.depth
    part.out = p.out + columns.begin
    if p.start != NULL:
        part.start = p.start + columns.begin
    if p.units != NULL:
        part.units = p.units + columns.begin
    product(&part, 0, rows)


cdef class Matmul:
    """out[out_index[n]] = start + the sum over pieces of x[n] @ matrix.

    pieces: pairs of x [tokens, depth] and the panels of a matrix [depth, columns], in the order of the sum. x and out
    may be slices of columns. Without an out_index token n stands at out[n]; start of None: zeros. units: of the columns
    of a quantised matrix, which quantised rows meet in one piece.
    """

    cdef Product *products      # [count]
    cdef Py_ssize_t count
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self, tuple pieces, start, out, out_index, units=None):
        cdef Py_ssize_t i
        self.owners = pieces, start, out, out_index, units
        self.count = len(pieces)
        self.products = <Product *>malloc(max(1, self.count) * sizeof(Product))
        if self.products == NULL:
            raise MemoryError()
        for i in range(self.count):
            x, panels = pieces[i]
            set_product(&self.products[i], x, panels, start, out, out_index)
            set_units(&self.products[i], units)
            self.products[i].accumulate = i > 0

    def __dealloc__(self):
        free(self.products)

    def fill(self, Py_ssize_t begin, Py_ssize_t end):
        """Fill in tokens begin to end."""
        cdef uint64_t mode
        cdef Py_ssize_t i
        with nogil:
            mode = flush_denormals()
            for i in range(self.count):
                product(&self.products[i], begin, end)
            set_float_mode(mode)


cdef int set_units(Product *p, const real[::1] units) except -1:
    p.units = NULL
    if units is not None:
        p.units = &units[0]
        p.depth = p.depth - 1   # the unit of a row follows its words
    return 0


cdef int set_product(Product *p, const real[:, :] x, const real[::1] panels, const real[::1] start, real[:, :] out,
                     const int64_t[::1] out_index) except -1:
    p.depth = x.shape[1]
    p.columns = out.shape[1]
    p.x = &x[0, 0] if x.shape[0] > 0 and x.shape[1] > 0 else NULL
    p.x_index = NULL
    p.x_stride = x.strides[0] // <Py_ssize_t>sizeof(real)
    p.panels = &panels[0] if panels.shape[0] > 0 else NULL
    p.start = &start[0] if start is not None else NULL
    p.out = &out[0, 0] if out.shape[0] > 0 and out.shape[1] > 0 else NULL
    p.out_index = &out_index[0] if out_index is not None and out_index.shape[0] > 0 else NULL
    p.out_stride = out.strides[0] // <Py_ssize_t>sizeof(real)
    p.far = True
    return 0
