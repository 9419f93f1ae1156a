# One pass of a recurrent layer over the steps of a batch, forwards and backwards, by one thread.

cdef struct Forward:
    real *h                     # in/out [rows + tokens, units], or two halves [2 * rows, units]
    real *c                     # in/out of an LSTM, in training [rows + tokens, units], otherwise [rows, units]
    real *gates                 # out  [tokens, 4 * units] in training, otherwise scratch of the run's rows, or NULL
    real *masked                # scratch for recurrent dropout
    real *words                 # scratch for quantised states [rows, depth + 1], or NULL
    bint every_step, training


cdef class Run:
    """A thread's share of a run of a recurrent layer: a range of rows, or, in a team, a part of the units of all rows.

    plan: rows of the batch, batch sizes and offsets. inputs: x, for each token its row there or None, and z, where the
    products of x stand: an array with a row for each token; another run of the team, whose room and scratch it shares;
    or None for room of its own, for blocks of `capacity` tokens. Without x the array is a table of products that are
    there already, and a token's row is one of it.
    """

    cdef Program program
    cdef Shard shard
    cdef Inputs inputs
    cdef Slices slices
    cdef Team team
    cdef RecurrentDropout dropout
    cdef bint zero_state        # of the last forward pass
    cdef object z               # array of real [*, columns]
    cdef object scratch         # of GRU_RESET_BEFORE in inference: array of real [rows, 4 * units]
    cdef tuple owners           # keeps the arrays behind the pointers alive

    def __cinit__(self):
        self.join(None, 0)

    def __init__(self, Program program, tuple plan, Py_ssize_t begin, Py_ssize_t end, tuple inputs,
                 Py_ssize_t capacity):
        x, rows, z = inputs
        self.program = program
        self.owners = plan, inputs
        self.shard.rows, batch_sizes, offsets = plan
        self.shard.begin = begin
        self.shard.end = end
        self.set_steps(batch_sizes, offsets)
        self.set_room(z, capacity)
        self.set_inputs(x, rows)

    def __dealloc__(self):
        free(self.inputs.x_index)
        free(self.inputs.ahead.marks)

    cdef set_steps(self, const int64_t[::1] batch_sizes, const int64_t[::1] offsets):
        self.shard.steps = batch_sizes.shape[0]
        self.shard.batch_sizes = &batch_sizes[0] if self.shard.steps > 0 else NULL
        self.shard.offsets = &offsets[0] if self.shard.steps > 0 else NULL

    cdef int set_capacity(self, Py_ssize_t capacity) except -1:
        cdef Inputs *inputs = &self.inputs
        inputs.x_index = <int64_t *>malloc(2 * capacity * sizeof(int64_t))
        if inputs.x_index == NULL:
            raise MemoryError()
        inputs.z_index = inputs.x_index + capacity
        inputs.capacity = capacity
        return 0

    cdef set_room(self, z, Py_ssize_t capacity):
        cdef Inputs *inputs = &self.inputs
        cdef Py_ssize_t rows = self.shard.end - self.shard.begin
        cdef real[:, ::1] room
        self.set_capacity(capacity)
        inputs.by_token = z is not None
        if isinstance(z, Run):
            self.z = (<Run>z).z
            self.scratch = (<Run>z).scratch
            inputs.by_token = (<Run>z).inputs.by_token
        else:
            self.z = aligned_empty((capacity, self.program.columns), DTYPE) if z is None else z
            if self.program.cell == GRU_RESET_BEFORE:
                self.scratch = aligned_empty((rows, 4 * self.program.units), DTYPE)
        room = self.z
        inputs.product.out = &room[0, 0] if room.shape[0] > 0 and room.shape[1] > 0 else NULL

    cdef set_inputs(self, const real[:, ::1] x, const int64_t[::1] rows):
        self.inputs.table = x is None
        self.point_at(&x[0, 0] if x is not None and x.shape[0] > 0 and x.shape[1] > 0 else NULL,
                      &rows[0] if rows is not None and rows.shape[0] > 0 else NULL)

    cdef void point_at(self, const real *x, const int64_t *rows) noexcept:
        cdef Inputs *inputs = &self.inputs
        cdef Product *p = &inputs.product
        inputs.rows = rows
        p.depth = self.program.input_depth
        p.x_stride = p.depth if self.program.input_units == NULL else p.depth + 1
        p.units = self.program.input_units
        p.columns = p.out_stride = self.program.columns
        p.x = x
        p.x_index = inputs.x_index
        p.panels = self.program.input_panels
        p.start = self.program.input_bias
        p.out_index = inputs.z_index
        p.accumulate = False
        p.far = False

    def divide(self, Py_ssize_t steps, Py_ssize_t tokens):
        """Have the products made in blocks of so many steps, and of so many tokens at most, half of the capacity.

        For a run of all rows, which has not begun.
        """
        cdef Ahead *ahead = &self.inputs.ahead
        ahead.steps = steps
        ahead.tokens = tokens
        ahead.room = self.inputs.capacity // tokens
        ahead.marks = <int64_t *>calloc((self.shard.steps + steps - 1) // steps, sizeof(int64_t))
        if ahead.marks == NULL:
            raise MemoryError()

    @property
    def divided(self):
        """Whether another thread may make products ahead of the steps."""
        return self.inputs.ahead.steps > 0

    def make_products(self):
        """Make products that the steps have not come to, which run in another thread, or have ended."""
        cdef uint64_t mode
        with nogil:
            mode = flush_denormals()
            make_blocks(&self.inputs, &self.shard)
            set_float_mode(mode)

    def join(self, Team team, int own):
        """Take a part of the next pass of a team, which is new; a team of None: the pass is one thread's."""
        cdef Slices *slices = &self.slices
        self.team = team
        memset(slices, 0, sizeof(Slices))
        slices.parts = 1
        slices.part = -1
        if team is not None:
            slices.parts = team.parts
            slices.patience = team.patience
            slices.marks = team.marks
            slices.own = own

    def forward(self, tuple states, real[:, ::1] gates, bint every_step, bint zero_state, RecurrentDropout dropout):
        """Run all steps.

        states: h, and c of an LSTM, which begin with the initial states. h is [rows + tokens, units] if every step is
        kept, and otherwise two halves [2 * rows, units] that steps read and write in turn. gates of None is inference,
        with c [rows, units]; in training gates [tokens, 4 * units] and c, of every step, keep what the backward pass
        needs (of a SimpleRNN h is enough). zero_state: the initial states are zeros, which no product has to meet.
        A run with a team has no dropout.
        """
        cdef uint64_t mode
        cdef Forward f
        cdef real[::1] masked, words
        cdef Py_ssize_t active = active_rows(&self.shard, 0)
        self.zero_state = zero_state
        self.dropout = dropout
        if active == 0 or self.program.units == 0:
            return
        self.set_states(&f, states, gates)
        f.every_step = every_step
        f.words = NULL
        if self.program.column_units != NULL:
            words = aligned_empty(active * (self.program.depth + 1), DTYPE)
            f.words = &words[0]
        if dropout is not None:
            masked = aligned_empty(active * (self.program.units + self.program.state_columns) + LANES, DTYPE)
            f.masked = &masked[0]
        with nogil:
            mode = flush_denormals()
            run_forward(self, self.program, &f)
            set_float_mode(mode)

    cdef set_states(self, Forward *f, tuple states, real[:, ::1] gates):
        cdef real[:, ::1] h = states[0]
        cdef real[:, ::1] c = states[1] if self.program.cell == LSTM else None
        cdef real[:, ::1] scratch = self.scratch
        f.h = &h[0, 0]
        f.c = &c[0, 0] if c is not None else NULL
        f.training = gates is not None
        f.gates = &gates[0, 0] if gates is not None else &scratch[0, 0] if scratch is not None else NULL

    def backward(self, Transposed transposed, tuple states, real[:, ::1] d, const real[:, ::1] dy, tuple gradients):
        """Run all steps backwards after a forward pass that has kept every step.

        states: those of the forward pass. d: its gates, which become gradients of pre-activations [tokens, 4 * units];
        of a SimpleRNN [tokens, units], only written. dy: gradients of the outputs, or None. gradients: dh, and dc of an
        LSTM, [rows, units], of the final states; they become those of the initial ones, unless these are zeros.
        """
        cdef uint64_t mode
        cdef BackwardStep s
        cdef real[::1] masked
        cdef real *scratch = NULL
        cdef Py_ssize_t active = active_rows(&self.shard, 0)
        if active == 0 or self.program.units == 0:
            return
        set_backward_program(&s, self.program, transposed)
        set_backward_states(&s, self.program, states, gradients)
        s.stride = d.shape[1]
        s.d = &d[0, 0]
        s.dy = &dy[0, 0] if dy is not None else NULL
        if self.dropout is not None:
            masked = aligned_empty(2 * active * self.program.units, DTYPE)
            scratch = &masked[0]
        with nogil:
            mode = flush_denormals()
            run_backward(self, self.program, &s, scratch)
            set_float_mode(mode)

    def gradients(self, const real[:, ::1] d, const real[:, ::1] h, const real[:, :] kernel, real[:, ::1] dx,
                  tuple of_kernel, tuple of_recurrent):
        """Fill in the gradients of inputs and weights from d, that of pre-activations, in one thread.

        For a run of all rows that has x, with a token, a feature and a unit. dx is like x, and zeros stand there where
        rows are not tokens. of_kernel: gradients of kernel and input bias. of_recurrent: gradients of the columns of
        the recurrent kernel that meet h itself, and of their bias, or None.
        """
        cdef uint64_t mode
        cdef WeightGradients g
        cdef real[::1] scratch
        g.previous = <int64_t *>malloc(d.shape[0] * sizeof(int64_t))
        if g.previous == NULL:
            raise MemoryError()
        try:
            set_weight_gradients(&g, self, d, h, kernel, dx)
            set_gradient(&g.of_kernel, of_kernel[0], of_kernel[1])
            set_gradient(&g.of_recurrent, of_recurrent[0], of_recurrent[1])
            scratch = aligned_empty(weight_gradients_scratch(&g), DTYPE)
            with nogil:
                mode = flush_denormals()
                make_weight_gradients(&g, self, &scratch[0])
                set_float_mode(mode)
        finally:
            free(g.previous)
