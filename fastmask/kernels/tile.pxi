# The register tile that every matrix product runs on: up to ROWS rows times WIDTH vectors.
#
# A right-hand matrix is packed into panels [panel][k][width][LANES] in the order the tile reads them.
# Every sum over k is one chain of fused multiply-adds from k = 0 on, whatever the size of the tile: the
# bits of a row do not depend on the rows beside it.

cdef enum:
    WIDTH = 4
    PACK_BLOCK = 32     # rows of a matrix that are packed into all panels at a time


cdef struct Tile:
    Py_ssize_t depth
    const real *x[ROWS]         # in   [depth] of each row
    Py_ssize_t x_stride         # by columns: element k of row i is x[0][k * x_stride + i]
    const real *panel           # in   [depth][width][LANES]
    const real *start[ROWS]     # in   vector j of row i starts from start[i] + j * start_step
    Py_ssize_t start_step
    real *out[ROWS]             # out  [width][LANES] of each row; may be start; by columns in/out
    vec sums[ROWS][WIDTH]       # room for out where the results are not kept
    const real *ahead           # ahead[k * ahead_step] comes into the second-level cache meanwhile
    Py_ssize_t ahead_step


# Written out, because a compiler unrolls an outermost loop only after it has decided what lives in registers.

cdef inline void load_row(const int width, const real *p, Py_ssize_t step, vec *a) noexcept nogil:
    a[0] = v_load(p)
    if width > 1:
        a[1] = v_load(p + step)
    if width > 2:
        a[2] = v_load(p + 2 * step)
    if width > 3:
        a[3] = v_load(p + 3 * step)


cdef inline void store_row(const int width, const bint add, const vec *a, real *p) noexcept nogil:
    v_store(p, v_load(p) + a[0] if add else a[0])
    if width > 1:
        v_store(p + LANES, v_load(p + LANES) + a[1] if add else a[1])
    if width > 2:
        v_store(p + 2 * LANES, v_load(p + 2 * LANES) + a[2] if add else a[2])
    if width > 3:
        v_store(p + 3 * LANES, v_load(p + 3 * LANES) + a[3] if add else a[3])


cdef inline void load_tile(const int rows, const int width, const Tile *t, vec *a) noexcept nogil:
    load_row(width, t.start[0], t.start_step, a)
    if rows > 1:
        load_row(width, t.start[1], t.start_step, a + WIDTH)
    if rows > 2:
        load_row(width, t.start[2], t.start_step, a + 2 * WIDTH)
    if rows > 3:
        load_row(width, t.start[3], t.start_step, a + 3 * WIDTH)
    if rows > 4:
        load_row(width, t.start[4], t.start_step, a + 4 * WIDTH)
    if rows > 5:
        load_row(width, t.start[5], t.start_step, a + 5 * WIDTH)


cdef inline void store_tile(const int rows, const int width, const bint add, const vec *a,
                            const Tile *t) noexcept nogil:
    store_row(width, add, a, t.out[0])
    if rows > 1:
        store_row(width, add, a + WIDTH, t.out[1])
    if rows > 2:
        store_row(width, add, a + 2 * WIDTH, t.out[2])
    if rows > 3:
        store_row(width, add, a + 3 * WIDTH, t.out[3])
    if rows > 4:
        store_row(width, add, a + 4 * WIDTH, t.out[4])
    if rows > 5:
        store_row(width, add, a + 5 * WIDTH, t.out[5])


cdef inline void multiply(const int rows, const int width, const bint by_columns, Tile *t) noexcept nogil:
    # rows and width are literals after inlining: the loops over them unroll and `a` lives in registers. By columns
    # the sums start from zeros and are added to what stands in out.
    cdef vec a[ROWS * WIDTH]
    cdef vec xk[ROWS]
    cdef const real *x[ROWS]
    cdef const real *panel = t.panel
    cdef const real *column = t.x[0]
    cdef const real *ahead = t.ahead
    cdef vec b
    cdef Py_ssize_t k, depth = t.depth
    cdef int i, n
    for i in range(rows):
        x[i] = t.x[i]
    if by_columns:
        for n in range(rows * WIDTH):
            a[n] = v_set1(0.0)
    else:
        load_tile(rows, width, t, a)
    for k in range(depth):
        for i in range(rows):
            xk[i] = v_set1(column[i] if by_columns else x[i][k])
        for n in range(width * rows):
            # One loop, as two nested ones would not unroll in time.
            i = n % rows
            if i == 0:
                b = v_hold(v_load(panel + n // rows * LANES))
            a[i * WIDTH + n // rows] = v_fma(xk[i], b, a[i * WIDTH + n // rows])
        panel = panel + width * LANES
        if by_columns:
            column = column + t.x_stride
        v_prefetch(ahead)
        ahead = ahead + t.ahead_step
    store_tile(rows, width, by_columns, a, t)


cdef inline void multiply_rows(int rows, const int width, const bint by_columns, Tile *t) noexcept nogil:
    if ROWS >= 6 and rows >= 6:
        multiply(6, width, by_columns, t)
    elif ROWS >= 5 and rows == 5:
        multiply(5, width, by_columns, t)
    elif ROWS >= 4 and rows == 4:
        multiply(4, width, by_columns, t)
    elif ROWS >= 3 and rows >= 3:
        multiply(3, width, by_columns, t)
    elif rows >= 2:
        multiply(2, width, by_columns, t)
    else:
        multiply(1, width, by_columns, t)


cdef inline void multiply_width(int rows, int width, const bint by_columns, Tile *t) noexcept nogil:
    if width == 4:
        multiply_rows(rows, 4, by_columns, t)
    elif width == 3:
        multiply_rows(rows, 3, by_columns, t)
    elif width == 2:
        multiply_rows(rows, 2, by_columns, t)
    else:
        multiply_rows(rows, 1, by_columns, t)


cdef void run_tile(int rows, int width, Tile *t) noexcept nogil:
    multiply_width(rows, width, False, t)


cdef void run_column_tile(int rows, int width, Tile *t) noexcept nogil:
    multiply_width(rows, width, True, t)


cdef inline void multiply_panels(const int width, Tile *t) noexcept nogil:
    # One row times PANELS panels, the first of which is t.panel: a single row's chains of additions are too
    # few to keep the multipliers busy. start and out count panels where the other tiles count rows.
    cdef vec a[ROWS * WIDTH]
    cdef const real *panel[PANELS]
    cdef const real *x = t.x[0]
    cdef vec xk
    cdef Py_ssize_t k, depth = t.depth
    cdef int i, n
    for i in range(PANELS):
        panel[i] = t.panel + i * depth * width * LANES
    load_tile(PANELS, width, t, a)
    for k in range(depth):
        xk = v_set1(x[k])
        for n in range(PANELS * width):
            i = n // width
            a[i * WIDTH + n % width] = v_fma(xk, v_load(panel[i] + n % width * LANES), a[i * WIDTH + n % width])
        for i in range(PANELS):
            panel[i] = panel[i] + width * LANES
    store_tile(PANELS, width, False, a, t)


cdef void run_panels(int width, Tile *t) noexcept nogil:
    if width == 4:
        multiply_panels(4, t)
    else:
        multiply_panels(3, t)


cdef inline void keep_sums(Tile *t) noexcept nogil:
    cdef int i
    for i in range(ROWS):
        t.out[i] = <real *>t.sums[i]


cdef inline void look_ahead(Tile *t, const real *following, int width, Py_ssize_t row) noexcept nogil:
    # The first `width` tiles of a panel bring the following one into the cache. Tiles are full but for the last
    # three, so the row that a tile begins with tells its number.
    cdef Py_ssize_t tile = (row + ROWS - 1) // ROWS
    cdef bint some = tile < width
    t.ahead = following + tile * t.depth * LANES if some else t.panel
    t.ahead_step = LANES if some else 0


cdef inline void start_from(const vec *zero, Tile *t) noexcept nogil:
    # What a product is added to joins its sum at the end: a chain of additions loses least while it is small.
    cdef int i
    t.start_step = 0
    for i in range(ROWS):
        t.start[i] = <const real *>zero


cdef inline int rows_left(Py_ssize_t rows) noexcept nogil:
    return ROWS if rows >= ROWS else <int>rows


cdef inline int even_rows(Py_ssize_t rows) noexcept nogil:
    # Rows of the next tile when the last three are to be of about one height: one or two rows cost as much as three.
    if rows <= ROWS:
        return <int>rows
    if rows <= 2 * ROWS:
        return <int>((rows + 1) // 2)
    if rows <= 3 * ROWS:
        return <int>((rows + 2) // 3)
    return ROWS


cdef inline int panel_width(Py_ssize_t columns, Py_ssize_t column) noexcept nogil:
    cdef Py_ssize_t vectors = (columns - column + LANES - 1) // LANES
    return WIDTH if vectors >= WIDTH else <int>vectors


def pack_panels(const real[:, :] matrix, real[::1] panels, Py_ssize_t panel_step, Py_ssize_t vector_step,
                Py_ssize_t panel_count, int width):
    """Copy a matrix [depth, columns] into panels.

    Vector j of panel p holds the columns p * panel_step + j * vector_step and the LANES - 1 behind it. With a
    panel_step of LANES vector j belongs to gate j of `width`, and vector_step is the columns of a gate. Columns past
    the end, or past that of the gate, are zeros.
    """
    cdef Matrix m
    m.depth = matrix.shape[0]
    m.columns = matrix.shape[1]
    if m.depth == 0 or m.columns == 0:
        return
    m.row_stride = matrix.strides[0] // <Py_ssize_t>sizeof(real)
    m.column_stride = matrix.strides[1] // <Py_ssize_t>sizeof(real)
    m.numbers = &matrix[0, 0]
    with nogil:
        pack(&m, &panels[0], panel_step, vector_step, panel_count, width)


cdef struct Matrix:
    Py_ssize_t depth, columns
    const real *numbers         # in   [depth, columns]
    Py_ssize_t row_stride, column_stride


cdef void pack(const Matrix *m, real *target, Py_ssize_t panel_step, Py_ssize_t vector_step, Py_ssize_t panel_count,
               int width) noexcept nogil:
    cdef PanelPart part
    cdef bint by_gates = panel_step == LANES
    cdef Py_ssize_t p, k = 0
    cdef int j
    part.source = m.numbers
    part.row_stride = m.row_stride
    part.column_stride = m.column_stride
    part.vector_step = vector_step
    while k < m.depth:
        part.depth = min(m.depth - k, <Py_ssize_t>PACK_BLOCK) if m.column_stride == 1 else m.depth
        for p in range(panel_count):
            part.column = p * panel_step
            part.vectors = width if by_gates else panel_width(m.columns, part.column)
            for j in range(part.vectors):
                part.lanes[j] = lanes_left(m.columns - ((width - 1 - j) * vector_step if by_gates else 0),
                                           part.column + j * vector_step)
            part.target = target + (p * m.depth * width + k * part.vectors) * LANES
            if m.column_stride == 1:
                pack_rows(&part)
            else:
                pack_columns(&part)
        part.source = part.source + part.depth * m.row_stride
        k = k + part.depth


cdef struct PanelPart:
    # Some rows of one panel
    const real *source          # in   the first of these rows
    Py_ssize_t row_stride, column_stride, depth, column, vector_step
    int vectors
    int lanes[WIDTH]            # columns that each vector takes from the source; the rest are zeros
    real *target                # out  [depth][vectors][LANES]


cdef void pack_rows(const PanelPart *p) noexcept nogil:
    cdef bint whole = p.lanes[p.vectors - 1] == LANES
    cdef const real *source = p.source + p.column
    cdef real *target = p.target
    cdef Py_ssize_t k
    cdef int j
    for k in range(p.depth):
        for j in range(p.vectors):
            if whole:
                v_store(target, v_load(source + j * p.vector_step))
            else:
                v_store(target, load(source + j * p.vector_step, p.lanes[j]))
            target = target + LANES
        source = source + p.row_stride


cdef void pack_columns(const PanelPart *p) noexcept nogil:
    # Of a transposed source, whose columns lie along its memory, squares of LANES columns are turned over at a time.
    # LANES streams of memory at once: rows of all columns take 1.6 times as long.
    cdef const real *source
    cdef real *target
    cdef Py_ssize_t k
    cdef int j
    for j in range(p.vectors):
        source = p.source + (p.column + j * p.vector_step) * p.column_stride
        target = p.target + j * LANES
        k = 0
        while k < p.depth:
            if p.row_stride == 1 and p.depth - k >= LANES and p.lanes[j] == LANES:
                transpose(source + k, p.column_stride, target + k * p.vectors * LANES, p.vectors * LANES)
            else:
                pack_elements(p, source + k * p.row_stride, min(p.depth - k, <Py_ssize_t>LANES), p.lanes[j],
                              target + k * p.vectors * LANES)
            k = k + LANES


cdef inline void transpose(const real *source, Py_ssize_t source_stride, real *target,
                           Py_ssize_t target_stride) noexcept nogil:
    # Each round interleaves vector n with vector n + LANES / 2; after log2(LANES) rounds all are transposed.
    cdef vec a[LANES]
    cdef vec b[LANES]
    cdef int n, width = 1
    for n in range(LANES):
        a[n] = v_load(source + n * source_stride)
    while width < LANES:
        for n in range(LANES // 2):
            b[2 * n] = v_interleave_lower(a[n], a[n + LANES // 2])
            b[2 * n + 1] = v_interleave_upper(a[n], a[n + LANES // 2])
        for n in range(LANES):
            a[n] = b[n]
        width = 2 * width
    for n in range(LANES):
        v_store(target + n * target_stride, a[n])


cdef void pack_elements(const PanelPart *p, const real *source, Py_ssize_t rows, int lanes,
                        real *target) noexcept nogil:
    # One vector of columns of some rows
    cdef int i
    cdef Py_ssize_t k
    for k in range(rows):
        v_store(target, v_set1(0.0))
        for i in range(lanes):
            target[i] = source[k * p.row_stride + i * p.column_stride]
        target = target + p.vectors * LANES
