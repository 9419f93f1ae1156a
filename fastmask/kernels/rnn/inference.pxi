# A whole run of a recurrent layer by one thread that keeps nothing for a backward pass.

def infer(Program program, plan, tuple inputs, tuple states, bint every_step, Py_ssize_t capacity):
    """Run all steps of a batch; returns the outputs of all of them, or None, and the final states [rows, units].

    plan: a Packing. inputs and capacity: those of a Run. states: initial ones [rows, units] in the order of the batch,
    of which None are zeros; None: all are.
    """
    cdef Py_ssize_t rows = plan.batch_size
    cdef Py_ssize_t behind = plan.tokens if every_step else rows
    cdef bint zero_state = states is None
    cdef Run run = Run(program, (rows, plan.batch_sizes, plan.offsets), 0, rows, inputs, capacity)
    cdef const int64_t[::1] last = plan.last_steps
    cdef const int64_t[::1] lengths = plan.lengths
    cdef const int64_t[::1] places = plan.unsorted_indices
    cdef const real[:, ::1] start
    cdef real[:, ::1] buffer
    cdef real[:, ::1] final
    cdef list buffers = [], finals = []
    cdef Py_ssize_t b, k, source, count = 2 if program.cell == LSTM else 1
    for k in range(count):
        buffer = memory = aligned_empty((rows + (behind if k == 0 else 0), program.units), DTYPE)
        start = None if zero_state else states[k]
        for b in range(rows if program.units > 0 else 0):
            if start is None:
                memset(&buffer[places[b], 0], 0, program.units * sizeof(real))
            else:
                memcpy(&buffer[places[b], 0], &start[b, 0], program.units * sizeof(real))
        buffers.append(memory)
    run.forward(tuple(buffers), None, every_step, zero_state, None)
    for k in range(count):
        buffer = buffers[k]
        final = result = aligned_empty((rows, program.units), DTYPE)
        for b in range(rows if program.units > 0 else 0):
            source = places[b]
            if k == 0:
                # Of two halves, a row of odd length ends in the second.
                source = last[b] if every_step else source + (lengths[b] & 1) * rows
            memcpy(&final[b, 0], &buffer[source, 0], program.units * sizeof(real))
        finals.append(result)
    return buffers[0][rows:] if every_step else None, tuple(finals)
