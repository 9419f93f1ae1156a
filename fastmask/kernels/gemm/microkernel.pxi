# The micro-kernel that every matrix product runs on: up to ROWS rows times WIDTH vectors, whose sums stay in registers.
#
# A right-hand matrix is packed into panels [panel][k][width][LANES] in the order in which the micro-kernel reads them.
# Every sum over k is one chain of fused multiply-adds from k = 0 on, whatever the size of the tile: the
# bits of a row do not depend on the rows beside it.
#
# Of quantised matrices a "number" of x or a panel is a word of two 16-bit integers, whose products are summed in 32-bit
# integers; k counts words. Sums of integers are exact; at the end they are multiplied by what an integer of the row,
# which stands behind its words, and one of the column stand for (quantized.pxi).

cdef enum:
    WIDTH = 4

cdef enum Form:
    BY_ROWS         # rows of x times a panel
    BY_COLUMNS      # the same, with x by columns; the sums begin with zeros and are added to what stands in out
    PANEL_GROUP     # one row times several panels: for one panel its chains are too few to keep the multipliers busy
    UNPACKED        # one row times neighbouring columns of a matrix that is not packed


cdef struct Tile:
    # Of one row times several groups of vectors (PANEL_GROUP, UNPACKED) start and out have a place for each group.
    Py_ssize_t depth
    const real *x[ROWS]         # in   [depth] of each row
    Py_ssize_t x_stride         # by columns: element k of row i is x[0][k * x_stride + i]
    const real *panel           # in   [depth][width][LANES], or the first column of a matrix that is not packed
    Py_ssize_t panel_stride     # not packed: numbers from one row of that matrix to the next
    const real *start[ROWS]     # in   vector j of row i starts from start[i] + j * start_step
    Py_ssize_t start_step
    real *out[ROWS]             # out  [width][LANES] of each row; may be start; by columns in/out
    vec sums[ROWS][WIDTH]       # room for out where the results are not kept
    const real *prefetch        # prefetch[k * prefetch_step] comes into the second-level cache meanwhile
    Py_ssize_t prefetch_step
    const real *units           # in   of integers: vector j of group i has those at units + i * LANES + j * units_step
    Py_ssize_t units_step


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


cdef inline void rescale(const int width, const real *units, real unit, int i, const Tile *t, vec *a) noexcept nogil:
    # Sums of integers become start[i] + integers * units of the row and of the columns.
    cdef vec start[WIDTH]
    cdef vec columns[WIDTH]
    cdef int j
    load_row(width, t.start[i], t.start_step, start)
    load_row(width, units, t.units_step, columns)
    for j in range(width):
        a[j] = v_fma(v_from_integers(a[j]) * v_set1(unit), columns[j], start[j])


cdef inline void multiply(const int rows, const int width, const Form form, const bint integers,
                          Tile *t) noexcept nogil:
    # rows, width, form and integers are literals after inlining: the loops over them unroll and `a` lives in registers.
    # For one row, `rows` is the number of groups of `width` vectors that it meets: panels, or a wider part of a matrix.
    cdef bint one_row = form == PANEL_GROUP or form == UNPACKED
    cdef vec a[ROWS * WIDTH]
    cdef vec xk[ROWS]
    cdef const real *x[ROWS]
    cdef const real *panel[ROWS]
    cdef const real *column = t.x[0]
    cdef const real *prefetch = t.prefetch
    cdef vec b
    cdef Py_ssize_t k, depth = t.depth
    cdef int i, j, n
    for i in range(1 if one_row else rows):
        x[i] = t.x[i]
    for i in range(rows if form == PANEL_GROUP else 1):
        panel[i] = t.panel + i * depth * width * LANES
    if form == BY_COLUMNS or integers:
        for n in range(rows * WIDTH):
            a[n] = v_set1(0.0)
    else:
        load_tile(rows, width, t, a)
    for k in range(depth):
        for i in range(1 if one_row else rows):
            xk[i] = v_broadcast(x[i] + k) if integers else v_set1(column[i] if form == BY_COLUMNS else x[i][k])
        for n in range(width * rows):
            # One loop, as two nested ones would not unroll in time.
            i = n // width if one_row else n % rows
            j = n % width if one_row else n // rows
            if one_row:
                b = v_load(panel[i] + j * LANES if form == PANEL_GROUP else panel[0] + n * LANES)
            elif i == 0:
                b = v_hold(v_load(panel[0] + j * LANES))
            if integers:
                a[i * WIDTH + j] = v_dot(xk[0 if one_row else i], b, a[i * WIDTH + j])
            else:
                a[i * WIDTH + j] = v_fma(xk[0 if one_row else i], b, a[i * WIDTH + j])
        for i in range(rows if form == PANEL_GROUP else 1):
            panel[i] = panel[i] + (t.panel_stride if form == UNPACKED else width * LANES)
        if form == BY_COLUMNS:
            column = column + t.x_stride
        if not one_row:
            v_prefetch(prefetch)
            prefetch = prefetch + t.prefetch_step
    if integers:
        for i in range(rows):
            j = i * LANES if one_row else 0
            rescale(width, t.units + j, t.x[0 if one_row else i][depth], i, t, a + i * WIDTH)
    store_tile(rows, width, form == BY_COLUMNS, a, t)


cdef inline void multiply_rows(int rows, const int width, const Form form, const bint integers,
                               Tile *t) noexcept nogil:
    if ROWS >= 6 and rows >= 6:
        multiply(6, width, form, integers, t)
    elif ROWS >= 5 and rows == 5:
        multiply(5, width, form, integers, t)
    elif ROWS >= 4 and rows == 4:
        multiply(4, width, form, integers, t)
    elif ROWS >= 3 and rows >= 3:
        multiply(3, width, form, integers, t)
    elif rows >= 2:
        multiply(2, width, form, integers, t)
    else:
        multiply(1, width, form, integers, t)


cdef inline void multiply_width(int rows, int width, const Form form, const bint integers, Tile *t) noexcept nogil:
    if width == 4:
        multiply_rows(rows, 4, form, integers, t)
    elif width == 3:
        multiply_rows(rows, 3, form, integers, t)
    elif width == 2:
        multiply_rows(rows, 2, form, integers, t)
    else:
        multiply_rows(rows, 1, form, integers, t)


cdef void run_tile(int rows, int width, Tile *t) noexcept nogil:
    multiply_width(rows, width, BY_ROWS, False, t)


cdef void run_column_tile(int rows, int width, Tile *t) noexcept nogil:
    multiply_width(rows, width, BY_COLUMNS, False, t)


cdef void run_panels(int width, Tile *t) noexcept nogil:
    # One row times PANELS panels
    if width == 4:
        multiply(PANELS, 4, PANEL_GROUP, False, t)
    else:
        multiply(PANELS, 3, PANEL_GROUP, False, t)


cdef inline void keep_sums(Tile *t) noexcept nogil:
    cdef int i
    for i in range(ROWS):
        t.out[i] = <real *>t.sums[i]


cdef inline void prefetch_panel(Tile *t, const real *following, int width, Py_ssize_t row) noexcept nogil:
    # The first `width` tiles of a panel bring the following one into the cache. Tiles are full but for the last
    # three, so the number of a tile follows from the row that it begins with.
    cdef Py_ssize_t tile = (row + ROWS - 1) // ROWS
    cdef bint some = tile < width
    t.prefetch = following + tile * t.depth * LANES if some else t.panel
    t.prefetch_step = LANES if some else 0


cdef inline void start_from(const vec *zero, Tile *t) noexcept nogil:
    # What a product is added to joins its sum at the end: a chain of additions loses least while it is small.
    cdef int i
    t.start_step = 0
    for i in range(ROWS):
        t.start[i] = <const real *>zero


cdef inline int rows_left(Py_ssize_t rows) noexcept nogil:
    return ROWS if rows >= ROWS else <int>rows


cdef inline int even_rows(Py_ssize_t rows, bint integers) noexcept nogil:
    # Rows of the next tile when the last three are to be of about one height: one or two rows cost as much as three.
    cdef int most = INTEGER_ROWS if integers else ROWS
    if rows <= most:
        return <int>rows
    if rows <= 2 * most:
        return <int>((rows + 1) // 2)
    if rows <= 3 * most:
        return <int>((rows + 2) // 3)
    return most
