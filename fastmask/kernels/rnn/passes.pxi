# The loops over the time steps: one forwards and one backwards, for all cells.

cdef void run_forward(Run run, Program program, const Forward *f) noexcept nogil:
    cdef const Shard *shard = &run.shard
    cdef const MaskedProduct *dropout = &run.dropout.product if run.dropout is not None else NULL
    cdef Step s
    cdef Columns columns
    cdef const int64_t *z_index
    cdef Py_ssize_t t = 0, block_end, rows
    cdef int phase
    set_forward_program(&s, program, dropout, shard.begin)
    while active_rows(shard, t) > 0:
        run.slices.downwards = t & 1
        block_end = next_block(&run.inputs, shard, &run.slices, t)
        z_index = run.inputs.z_index
        while t < block_end:
            rows = active_rows(shard, t)
            set_forward_step(&s, run, f, t, z_index)
            if dropout != NULL and s.depth > 0:
                mask_states(&s, program, dropout, shard.begin, rows, f.masked)
            run.slices.downwards = t & 1
            for phase in range(program.phases):
                set_operands(&s, program, phase, rows, f.words)
                while next_panel(&run.slices, s.units, &columns):
                    program.forward[phase](&s, rows, &columns)
            z_index = z_index + rows
            t = t + 1


cdef void set_forward_program(Step *s, Program program, const MaskedProduct *dropout, Py_ssize_t begin) noexcept nogil:
    s.units = program.units
    s.activation = program.activation
    s.recurrent_activation = program.recurrent_activation
    s.panels = program.panels
    s.candidate = program.candidate
    s.column_units = program.column_units
    s.candidate_units = program.candidate_units
    s.reset_mask = NULL
    if dropout != NULL and dropout.reset_mask != NULL:
        s.reset_mask = dropout.reset_mask + begin * s.units


cdef inline void set_forward_step(Step *s, Run run, const Forward *f, Py_ssize_t t,
                                  const int64_t *z_index) noexcept nogil:
    cdef const Shard *shard = &run.shard
    s.depth = s.candidate_depth = 0 if t == 0 and run.zero_state else run.program.depth
    s.z = run.inputs.product.out
    s.z_index = z_index
    s.table = run.inputs.table
    s.start = run.program.bias
    s.start_stride = 0
    s.h_previous = f.h + state_before(shard, f.every_step, t) * s.units
    s.h = f.h + state_after(shard, f.every_step, t) * s.units
    s.c_previous = s.c = NULL
    if f.c != NULL:
        s.c_previous = f.c + (state_before(shard, True, t) if f.training else shard.begin) * s.units
        s.c = f.c + (state_after(shard, True, t) if f.training else shard.begin) * s.units
    s.gates = f.gates
    if f.training:
        s.gates = f.gates + (shard.offsets[t] + shard.begin) * 4 * s.units


cdef void set_operands(Step *s, Program program, int phase, Py_ssize_t rows, real *words) noexcept nogil:
    # The products of a phase meet h, or, of the candidate of GRU_RESET_BEFORE, r * h, whose unit follows its numbers.
    cdef Py_ssize_t i
    s.x = s.h_previous if phase == 0 else s.gates + 3 * s.units
    s.x_stride = s.units if phase == 0 else 4 * s.units
    if program.column_units == NULL:
        return
    for i in range(rows):
        quantize_row(s.x + i * s.x_stride, s.units, phase == 0 and is_bounded(s.activation),
                     words + i * (program.depth + 1))
    s.x = words
    s.x_stride = program.depth + 1


cdef inline bint is_bounded(int activation) noexcept nogil:
    return activation != LINEAR and activation != RELU and activation != ELU


cdef void mask_states(Step *s, Program program, const MaskedProduct *dropout, Py_ssize_t begin, Py_ssize_t rows,
                      real *scratch) noexcept nogil:
    # With recurrent dropout the products of the states are made before the step. They begin with those of the inputs,
    # or, of a GRU, with the recurrent bias, and take their place.
    cdef real *products = scratch + rows * s.units
    cdef Py_ssize_t i, columns = program.state_columns
    cdef bint apart = is_gru(program.cell)
    for i in range(rows):
        if not apart:
            memcpy(products + i * columns, s.z + indexed(s.z_index, i) * columns, columns * sizeof(real))
        elif s.start != NULL:
            memcpy(products + i * columns, s.start, columns * sizeof(real))
        else:
            memset(products + i * columns, 0, columns * sizeof(real))
    masked_forward(dropout, s.h_previous, begin, rows, scratch, products, columns)
    s.depth = 0
    if apart:
        s.start = products
        s.start_stride = columns
    else:
        s.z = products
        s.z_index = NULL


cdef void set_backward_program(BackwardStep *s, Program program, Transposed transposed) noexcept:
    s.units = program.units
    s.activation = program.activation
    s.recurrent_activation = program.recurrent_activation
    s.depth = program.state_columns
    s.first = program.first
    s.passes = is_gru(program.cell)
    s.panels = transposed.panels
    s.candidate = transposed.candidate
    s.products = s.reset_mask = NULL


cdef int set_backward_states(BackwardStep *s, Program program, tuple states, tuple gradients) except -1:
    cdef bint is_lstm = program.cell == LSTM
    cdef const real[:, ::1] h = states[0]
    cdef const real[:, ::1] c = states[1] if is_lstm else None
    cdef real[:, ::1] dh = gradients[0]
    cdef real[:, ::1] dc = gradients[1] if is_lstm else None
    s.h = &h[0, 0]
    s.c = &c[0, 0] if is_lstm else NULL
    s.dh = &dh[0, 0]
    s.dc = &dc[0, 0] if is_lstm else NULL
    return 0


cdef void run_backward(Run run, Program program, BackwardStep *s, real *scratch) noexcept nogil:
    # scratch: for recurrent dropout, [2, rows, units]
    cdef const Shard *shard = &run.shard
    cdef const MaskedProduct *dropout = &run.dropout.product if run.dropout is not None else NULL
    cdef Columns columns
    cdef Py_ssize_t t = shard.steps - 1, rows, going_on
    cdef int phase
    if dropout != NULL and dropout.reset_mask != NULL:
        s.reset_mask = dropout.reset_mask + shard.begin * s.units
    s.row = shard.begin
    while t >= 0:
        rows = active_rows(shard, t)
        going_on = active_rows(shard, t + 1)
        s.token = shard.offsets[t] + shard.begin
        s.next_token = shard.offsets[t + 1] + shard.begin if going_on > 0 else 0
        s.before = state_before(shard, True, t)
        s.after = state_after(shard, True, t)
        s.candidate_depth = 0 if t == 0 and run.zero_state else s.units
        if dropout != NULL and going_on > 0:
            mask_gradients(s, dropout, s.next_token, going_on, scratch)
        run.slices.downwards = t & 1
        for phase in range(program.phases):
            while next_panel(&run.slices, s.units, &columns):
                program.backward[phase](s, going_on, rows, &columns)
        t = t - 1
    if not run.zero_state:
        initial_state_gradient(run, s, dropout, scratch)


cdef void mask_gradients(BackwardStep *s, const MaskedProduct *dropout, Py_ssize_t token, Py_ssize_t rows,
                         real *scratch) noexcept nogil:
    cdef real *products = scratch + rows * s.units
    masked_backward(dropout, s.d + token * s.stride + s.first, s.stride, s.row, rows, scratch, products, s.depth)
    s.products = products


cdef void initial_state_gradient(Run run, BackwardStep *s, const MaskedProduct *dropout, real *scratch) noexcept nogil:
    # After step 0: dh += d[0] @ transposed U for the rows that have a step.
    cdef Product p
    cdef Columns columns
    cdef Py_ssize_t i, rows = active_rows(&run.shard, 0)
    cdef real *dh = s.dh + s.row * s.units
    if dropout != NULL:
        mask_gradients(s, dropout, s.row, rows, scratch)
        for i in range(rows * s.units):
            dh[i] = (dh[i] if s.passes else 0) + s.products[i]
        return
    p.depth = s.depth
    p.columns = s.units
    p.x = s.d + s.row * s.stride + s.first
    p.x_stride = s.stride
    p.x_index = NULL
    p.panels = s.panels
    p.start = NULL
    p.out = dh
    p.out_index = NULL
    p.out_stride = s.units
    p.accumulate = s.passes
    p.far = False
    p.units = NULL
    while next_panel(&run.slices, s.units, &columns):
        product_panel(&p, &columns, rows)
