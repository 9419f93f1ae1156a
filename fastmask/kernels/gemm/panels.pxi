# Copies of matrices in panels, [panel][k][width][LANES]: in the order in which the micro-kernel reads them.

cdef enum:
    PACK_BLOCK = 32     # rows of a matrix that are packed into all panels at a time


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
    set_part(m, vector_step, &part)
    while k < m.depth:
        part.depth = min(m.depth - k, <Py_ssize_t>PACK_BLOCK) if m.column_stride == 1 else m.depth
        for p in range(panel_count):
            set_columns(m, p * panel_step, width if by_gates else panel_width(m.columns, p * panel_step), &part)
            part.target = target + (p * m.depth * width + k * part.vectors) * LANES
            pack_part(&part)
        part.source = part.source + part.depth * m.row_stride
        k = k + part.depth


cdef struct PanelPart:
    # Some rows of one panel
    const real *source          # in   the first of these rows
    Py_ssize_t row_stride, column_stride, depth, column, vector_step
    int vectors
    int lanes[WIDTH]            # columns that each vector takes from the source; the rest are zeros
    real *target                # out  [depth][vectors][LANES]


cdef void set_part(const Matrix *m, Py_ssize_t vector_step, PanelPart *part) noexcept nogil:
    part.source = m.numbers
    part.row_stride = m.row_stride
    part.column_stride = m.column_stride
    part.vector_step = vector_step


cdef void set_columns(const Matrix *m, Py_ssize_t column, int vectors, PanelPart *part) noexcept nogil:
    # Vectors that stand apart belong to gates, and each ends with its gate.
    cdef bint apart = part.vector_step != LANES
    cdef int j
    part.column = column
    part.vectors = vectors
    for j in range(vectors):
        part.lanes[j] = lanes_left(m.columns - ((vectors - 1 - j) * part.vector_step if apart else 0),
                                   column + j * part.vector_step)


cdef void pack_part(const PanelPart *p) noexcept nogil:
    if p.column_stride == 1:
        pack_rows(p)
    else:
        pack_columns(p)


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
    # Of a transposed source, whose columns lie along its memory, LANES columns are turned over at a time.
    # LANES streams of memory at once: rows of all columns take 1.6 times as long.
    cdef const real *source
    cdef real *target
    cdef Py_ssize_t k, step = p.vectors * LANES
    cdef int j
    for j in range(p.vectors):
        source = p.source + (p.column + j * p.vector_step) * p.column_stride
        target = p.target + j * LANES
        k = 0
        if p.row_stride == 1 and p.lanes[j] == LANES:
            k = p.depth // SQUARE * SQUARE
            transpose(source, p.column_stride, k, target, step)
        pack_elements(p, source + k * p.row_stride, p.depth - k, p.lanes[j], target + k * step)


cdef inline void transpose(const real *source, Py_ssize_t stride, Py_ssize_t depth, real *target,
                           Py_ssize_t step) noexcept nogil:
    # `depth` numbers, a multiple of SQUARE, of each of LANES columns
    cdef vec a[SQUARE]
    cdef Py_ssize_t k = 0
    cdef int n
    while k < depth:
        turn(source, stride, a)
        source = source + SQUARE
        for n in range(SQUARE):
            v_store(target, a[n])
            target = target + step
        k = k + SQUARE


cdef inline void turn(const real *source, Py_ssize_t stride, vec *a) noexcept nogil:
    # SQUARE numbers of each of LANES columns. Each 16 bytes of the vectors are a square that is turned over by itself:
    # each round interleaves vector n with vector n + SQUARE / 2, and after log2(SQUARE) rounds all are transposed.
    cdef vec b[SQUARE]
    cdef int n, width = 1
    for n in range(SQUARE):
        a[n] = v_load_squares(source + n * stride, SQUARE * stride)
    while width < SQUARE:
        for n in range(SQUARE // 2):
            b[2 * n] = v_interleave_lower(a[n], a[n + SQUARE // 2])
            b[2 * n + 1] = v_interleave_upper(a[n], a[n + SQUARE // 2])
        for n in range(SQUARE):
            a[n] = b[n]
        width = 2 * width


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
