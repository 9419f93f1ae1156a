# Layers that follow one another, prepared: a small batch goes through all of them in one call, by one thread.
#
# A request of a few words takes as long as its weights take to come from the caches. Whatever else runs between two
# layers has left the caches by the next request, and then takes twice the time that it takes in a loop of its own.

cdef class Scratch:
    """Memory of one call, which goes with it."""

    cdef void *last             # block, which begins with the address of the one before
    cdef object owner           # keeps an array alive that values stand in

    def __dealloc__(self):
        cdef void *before
        while self.last != NULL:
            before = (<void **>self.last)[0]
            free(self.last)
            self.last = before

    cdef void *take(self, size_t size) except NULL:
        # From the start of a cache line on
        cdef char *block = <char *>malloc(size + 2 * CACHE_LINE)
        if block == NULL:
            raise MemoryError()
        (<void **>block)[0] = self.last
        self.last = block
        block = block + CACHE_LINE
        return block + (CACHE_LINE - <size_t>block % CACHE_LINE)


cdef struct Batch:
    # A batch on its way. It has a vector for each token, in the order of its plan, or for each row.
    Plan plan
    int64_t *lengths            # [batch_size]
    Py_ssize_t tokens
    int64_t *reverse            # [tokens]: see find_reverse; NULL until a layer runs backwards
    bint by_token
    const real *values          # [*, width]
    const int64_t *index        # [tokens]: which of the values is a token's; NULL: token n has number n
    Py_ssize_t width


cdef class Stage:
    """What a layer does to a batch."""

    cdef bint enter(self, x, mask, Batch *batch, Chain chain, Scratch scratch) except -1:
        # Begin with what a user passed. False: it is nothing that this stage can begin with.
        return False

    cdef int run(self, Batch *batch, Scratch scratch) except -1:
        return 0


cdef class Chain:
    """Layers that follow one another, from ids or features of each step to one vector for each row.

    stages: of which the first can begin. operations: those of a token. most: so many are few enough for one thread.
    """

    cdef list stages
    cdef double operations, most

    def __init__(self, list stages, double operations, double most):
        self.stages = stages
        self.operations = operations
        self.most = most

    def run(self, x, mask):
        """The vectors [B, width], and the number of tokens, of ids (B, T) or features (B, T, F) under a mask or None.

        None if this is another kind of batch, or one with an error in it, without tokens, or too large.
        """
        cdef Scratch scratch = Scratch()
        cdef Batch batch
        cdef Stage stage = self.stages[0]
        cdef real[:, ::1] rows
        if not stage.enter(x, mask, &batch, self, scratch):
            return None
        for stage in self.stages:
            stage.run(&batch, scratch)
        out = aligned_empty((batch.plan.batch_size, batch.width), DTYPE)
        rows = out
        memcpy(&rows[0, 0], batch.values, batch.plan.batch_size * batch.width * sizeof(real))
        return out, batch.tokens

    cdef bint lay_out(self, Batch *b, const uint8_t *valid, Py_ssize_t rows, Py_ssize_t steps,
                      Scratch scratch) except -1:
        # Make the plan of rows of which some steps count. False: there are none, or too many.
        cdef Plan *p = &b.plan
        cdef Py_ssize_t i
        cdef int64_t *memory
        b.lengths = <int64_t *>scratch.take(rows * sizeof(int64_t))
        b.tokens = p.steps = 0
        for i in range(rows):
            b.lengths[i] = count_nonzero(valid + i * steps, steps)
            b.tokens = b.tokens + b.lengths[i]
            p.steps = max(p.steps, <Py_ssize_t>b.lengths[i])
        if b.tokens == 0 or self.operations * b.tokens > self.most:
            return False
        p.batch_size = rows
        p.total_length = steps
        memory = <int64_t *>scratch.take((4 * rows + 3 * p.steps + 3 * b.tokens + 2) * sizeof(int64_t))
        p.sorted_indices = memory
        p.unsorted_indices = p.sorted_indices + rows
        p.batch_sizes = p.unsorted_indices + rows
        p.offsets = p.batch_sizes + p.steps
        p.positions = p.offsets + p.steps
        p.rows = p.positions + b.tokens
        memory = p.rows + b.tokens
        sort_rows(p, b.lengths, memory)
        find_valid_steps(p, valid, b.lengths, memory + rows + 1, memory)
        place_tokens(p, memory + rows + 1, memory)
        b.reverse = NULL
        return True


cdef const uint8_t *valid_steps(mask, Py_ssize_t rows, Py_ssize_t steps, Scratch scratch) except? NULL:
    # A byte for each step of a batch: that of its mask, or 1. NULL: the mask is none of this batch.
    cdef const uint8_t[:, ::1] given
    cdef uint8_t *found
    if mask is None:
        found = <uint8_t *>scratch.take(rows * steps)
        memset(found, 1, rows * steps)
        return found
    if type(mask) is not ndarray or mask.dtype != BOOL or mask.shape != (rows, steps) or not mask.flags.c_contiguous:
        return NULL
    given = mask.view(BYTE)
    return &given[0, 0]


cdef class LookUp(Stage):
    """Rows of a table by ids. mask_zero: id 0 is padding."""

    cdef const real[:, ::1] table
    cdef Py_ssize_t ids, width
    cdef bint mask_zero

    def __init__(self, const real[:, ::1] table, bint mask_zero):
        self.table = table
        self.ids, self.width = table.shape[0], table.shape[1]
        self.mask_zero = mask_zero

    cdef void copy(self, int64_t i, real *out) noexcept:
        memcpy(out, &self.table[i, 0], self.width * sizeof(real))

    cdef bint enter(self, x, mask, Batch *batch, Chain chain, Scratch scratch) except -1:
        cdef const int64_t[:, ::1] ids
        cdef const uint8_t *valid
        cdef uint8_t *nonzero
        cdef real *values
        cdef Py_ssize_t n, places
        cdef size_t row = self.width * sizeof(real)
        cdef int64_t i
        if x.ndim != 2 or x.size == 0 or row == 0 or x.dtype.kind != "i":
            return False
        ids = ascontiguousarray(x, int64)
        places = ids.shape[0] * ids.shape[1]
        valid = valid_steps(mask, ids.shape[0], ids.shape[1], scratch)
        if valid == NULL:
            return False
        if self.mask_zero:
            nonzero = <uint8_t *>scratch.take(places)
            for n in range(places):
                nonzero[n] = (&ids[0, 0])[n] != 0
            valid = nonzero
        if not chain.lay_out(batch, valid, ids.shape[0], ids.shape[1], scratch):
            return False
        values = <real *>scratch.take(batch.tokens * row)
        for n in range(batch.tokens):
            i = (&ids[0, 0])[batch.plan.positions[n]]
            if i < 0 or i >= self.ids:
                return False
            self.copy(i, values + n * self.width)
        batch.values = values
        batch.index = NULL
        batch.width = self.width
        batch.by_token = True
        return True


cdef class QuantizedLookUp(LookUp):
    """Rows of a table of integers, which are divided by the scale of their row."""

    cdef const int8_t[:, ::1] integers
    cdef const real[::1] scale

    def __init__(self, const int8_t[:, ::1] integers, const real[::1] scale, bint mask_zero):
        self.integers = integers
        self.scale = scale
        self.ids, self.width = integers.shape[0], integers.shape[1]
        self.mask_zero = mask_zero

    cdef void copy(self, int64_t i, real *out) noexcept:
        cdef Py_ssize_t k
        for k in range(self.width):
            out[k] = self.integers[i, k] / self.scale[i]


cdef class Scan(Stage):
    """A recurrent layer, or two whose outputs stand side by side.

    programs: pairs of a Program and whether it runs backwards. every_step: whether the outputs of all steps are kept.
    """

    cdef tuple programs
    cdef bint every_step
    cdef Py_ssize_t width

    def __init__(self, tuple programs, bint every_step):
        cdef Program program
        self.programs = programs
        self.every_step = every_step
        self.width = 0
        for program, _ in programs:
            self.width = self.width + program.units

    cdef bint enter(self, x, mask, Batch *batch, Chain chain, Scratch scratch) except -1:
        cdef const real[:, :, ::1] grid
        cdef const uint8_t *valid
        cdef Program program = self.programs[0][0]
        if x.ndim != 3 or x.size == 0 or x.dtype != DTYPE or x.shape[2] != program.features:
            return False
        grid = scratch.owner = ascontiguousarray(x)
        valid = valid_steps(mask, grid.shape[0], grid.shape[1], scratch)
        if valid == NULL or not chain.lay_out(batch, valid, grid.shape[0], grid.shape[1], scratch):
            return False
        batch.values = &grid[0, 0, 0]
        batch.index = batch.plan.positions
        batch.width = grid.shape[2]
        batch.by_token = True
        return True

    cdef int run(self, Batch *batch, Scratch scratch) except -1:
        cdef Py_ssize_t count = batch.tokens if self.every_step else batch.plan.batch_size
        cdef real *out = <real *>scratch.take(count * self.width * sizeof(real))
        cdef Py_ssize_t column = 0
        cdef Program program
        for program, backwards in self.programs:
            self.run_one(program, backwards, batch, out + column, scratch)
            column = column + program.units
        batch.values = out
        batch.index = NULL
        batch.width = self.width
        batch.by_token = self.every_step
        return 0

    cdef int run_one(self, Program program, bint backwards, Batch *b, real *out, Scratch scratch) except -1:
        cdef Run run = Run.__new__(Run)
        cdef Forward f
        cdef Py_ssize_t rows = b.plan.batch_size, units = program.units
        cdef size_t row = units * sizeof(real)
        cdef uint64_t mode
        memset(&f, 0, sizeof(Forward))
        f.h = <real *>scratch.take((rows + (b.tokens if self.every_step else rows)) * row)
        memset(f.h, 0, rows * row)
        f.every_step = self.every_step
        if program.cell == LSTM:
            f.c = <real *>scratch.take(rows * row)
            memset(f.c, 0, rows * row)
        elif program.cell == GRU_RESET_BEFORE:
            f.gates = <real *>scratch.take(4 * rows * row)
        if program.column_units != NULL:
            f.words = <real *>scratch.take(rows * (program.depth + 1) * sizeof(real))
        run.program = program
        run.zero_state = True
        run.shard = Shard(b.plan.steps, rows, 0, rows, b.plan.batch_sizes, b.plan.offsets)
        run.set_capacity(b.tokens)
        run.inputs.product.out = <real *>scratch.take(b.tokens * program.columns * sizeof(real))
        self.set_inputs(run, b, backward_index(b, scratch) if backwards else b.index, scratch)
        with nogil:
            mode = flush_denormals()
            run_forward(run, program, &f)
            set_float_mode(mode)
        self.leave(b, f.h, units, backwards, out)
        return 0

    cdef int set_inputs(self, Run run, Batch *b, const int64_t *index, Scratch scratch) except -1:
        if run.program.input_units == NULL:
            run.point_at(b.values, index)
        else:
            run.point_at(quantized_values(b, index, b.tokens, scratch), NULL)
        return 0

    cdef void leave(self, const Batch *b, const real *h, Py_ssize_t units, bint backwards, real *out) noexcept:
        # Bring outputs into the order of the tokens, or the last ones into that of the rows.
        cdef Py_ssize_t n, rows = b.plan.batch_size
        if self.every_step:
            for n in range(b.tokens):
                memcpy(out + n * self.width, h + (rows + (b.reverse[n] if backwards else n)) * units,
                       units * sizeof(real))
            return
        for n in range(rows):
            # Of two halves, a row of odd length ends in the second.
            memcpy(out + n * self.width, h + (b.plan.unsorted_indices[n] + (b.lengths[n] & 1) * rows) * units,
                   units * sizeof(real))


cdef const int64_t *backward_index(Batch *b, Scratch scratch) except NULL:
    # The values of the tokens in the order of a run from the end
    cdef Py_ssize_t n
    cdef int64_t *memory
    if b.reverse == NULL:
        memory = <int64_t *>scratch.take((b.tokens + b.plan.batch_size) * sizeof(int64_t))
        for n in range(b.plan.batch_size):
            memory[b.tokens + n] = b.lengths[b.plan.sorted_indices[n]]
        find_reverse(memory + b.tokens, b.plan.batch_sizes, b.plan.steps, b.plan.offsets, memory)
        b.reverse = memory
    if b.index == NULL:
        return b.reverse
    memory = <int64_t *>scratch.take(b.tokens * sizeof(int64_t))
    for n in range(b.tokens):
        memory[n] = b.index[b.reverse[n]]
    return memory


cdef const real *quantized_values(const Batch *b, const int64_t *index, Py_ssize_t count,
                                  Scratch scratch) except NULL:
    # The values that index names, in its order, as quantised rows
    cdef Py_ssize_t n, size = words_of(b.width) + 1
    cdef real *out = <real *>scratch.take(count * size * sizeof(real))
    cdef uint64_t mode = flush_denormals()
    for n in range(count):
        quantize_row(b.values + indexed(index, n) * b.width, b.width, False, out + n * size)
    set_float_mode(mode)
    return out


cdef class FullyConnected(Stage):
    """A Dense layer. panels: of its kernel. start: its readable bias, or None. units: of a quantised kernel."""

    cdef const real[::1] panels
    cdef const real[::1] start
    cdef const real[::1] units
    cdef Py_ssize_t columns
    cdef int activation

    def __init__(self, const real[::1] panels, const real[::1] start, Py_ssize_t columns, int activation,
                 const real[::1] units):
        self.panels = panels
        self.start = start
        self.units = units
        self.columns = columns
        self.activation = activation

    cdef int run(self, Batch *batch, Scratch scratch) except -1:
        cdef Py_ssize_t n, count = batch.tokens if batch.by_token else batch.plan.batch_size
        cdef Product p
        cdef uint64_t mode
        memset(&p, 0, sizeof(Product))
        p.depth = p.x_stride = batch.width
        p.columns = p.out_stride = self.columns
        p.x = batch.values
        p.x_index = batch.index
        p.panels = &self.panels[0]
        p.start = &self.start[0] if self.start is not None else NULL
        p.out = <real *>scratch.take(count * self.columns * sizeof(real))
        if self.units is not None:
            p.x = quantized_values(batch, batch.index, count, scratch)
            p.x_index = NULL
            p.depth = words_of(batch.width)
            p.x_stride = p.depth + 1
            p.units = &self.units[0]
        with nogil:
            mode = flush_denormals()
            product(&p, 0, count)
            set_float_mode(mode)
            if self.activation != 0:
                for n in range(count):
                    activate_row(self.activation, p.out + n * self.columns, p.out + n * self.columns, self.columns)
        batch.values = p.out
        batch.index = NULL
        batch.width = self.columns
        return 0


cdef object ascontiguousarray = np.ascontiguousarray
cdef object int64 = np.dtype(np.int64)
cdef object BOOL = np.dtype(np.bool_)
cdef object BYTE = np.dtype(np.uint8)
cdef object ndarray = np.ndarray
