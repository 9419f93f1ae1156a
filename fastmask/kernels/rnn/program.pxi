# What stays the same from run to run of a recurrent layer.

cdef enum:
    MOST_PHASES = 2     # of a step, each of which needs all that the one before has made


cdef class Program:
    """The weights of a recurrent layer, packed, and its step. It does not change, so threads may share it.

    cell: one of SIMPLE_RNN, LSTM, GRU and GRU_RESET_BEFORE. sizes: features and units. inputs: panels of the kernel,
    or None if only tables of products are met, and the readable bias or None. recurrent: panels of the recurrent kernel
    by gates, of GRU_RESET_BEFORE those of the first two gates; panels of its candidate, or None; and the readable
    recurrent bias of a GRU, or None. Of a quantised layer the panels are of words, and inputs, and twice recurrent, end
    with the readable units of the columns that each of the panels has; otherwise there are none.
    """

    cdef int cell, activation, recurrent_activation
    cdef Py_ssize_t features, units
    cdef Py_ssize_t columns             # of the kernel
    cdef Py_ssize_t state_columns       # of the recurrent kernel that meet h itself
    cdef Py_ssize_t first               # of the gradients of pre-activations that belongs to the states
    cdef const real *input_panels
    cdef const real *input_bias
    cdef const real *panels
    cdef const real *candidate
    cdef const real *bias
    cdef const real *input_units        # of a quantised layer, and NULL otherwise
    cdef const real *column_units
    cdef const real *candidate_units
    cdef Py_ssize_t input_depth, depth  # of the products of inputs and states: numbers, or words
    cdef int phases
    cdef ForwardPhase forward[MOST_PHASES]
    cdef BackwardPhase backward[MOST_PHASES]
    cdef tuple owners                   # keeps the arrays behind the pointers alive

    def __cinit__(self, int cell, int activation, int recurrent_activation, tuple sizes, tuple inputs,
                  tuple recurrent):
        self.owners = inputs, recurrent
        self.cell = cell
        self.activation = activation
        self.recurrent_activation = recurrent_activation
        self.features, self.units = sizes
        self.columns = input_gates(cell) * self.units
        self.state_columns = state_gates(cell) * self.units
        self.first = self.units if is_gru(cell) else 0
        self.input_panels = numbers_of(inputs[0])
        self.input_bias = numbers_of(inputs[1])
        self.panels = numbers_of(recurrent[0])
        self.candidate = numbers_of(recurrent[1])
        self.bias = numbers_of(recurrent[2])
        self.input_depth, self.depth = sizes
        if len(inputs) > 2:
            self.set_units(inputs[2], recurrent[3], recurrent[4])
        self.set_phases()

    cdef set_units(self, of_inputs, of_columns, of_candidate):
        self.input_units = numbers_of(of_inputs)
        self.column_units = numbers_of(of_columns)
        self.candidate_units = numbers_of(of_candidate)
        self.input_depth = words_of(self.features)
        self.depth = words_of(self.units)

    cdef void set_phases(self) noexcept:
        self.phases = 1
        if self.cell == SIMPLE_RNN:
            self.forward[0] = simple_rnn_phase
            self.backward[0] = simple_rnn_backward
        elif self.cell == LSTM:
            self.forward[0] = lstm_phase
            self.backward[0] = lstm_backward
        elif self.cell == GRU:
            self.forward[0] = gru_phase
            self.backward[0] = gru_backward
        else:
            self.phases = 2
            self.forward[0] = reset_phase
            self.forward[1] = candidate_phase
            self.backward[0] = reset_before_backward
            self.backward[1] = candidate_backward


cdef class Transposed:
    """What only a backward pass needs of a layer's weights: panels of the transposed recurrent kernel.

    Of GRU_RESET_BEFORE they belong to the first two gates, and candidate has those of the third; otherwise it is None.
    """

    cdef const real *panels
    cdef const real *candidate
    cdef tuple owners                   # keeps the arrays behind the pointers alive

    def __cinit__(self, panels, candidate):
        self.owners = panels, candidate
        self.panels = numbers_of(panels)
        self.candidate = numbers_of(candidate)


cdef const real *numbers_of(const real[::1] array) except? NULL:
    # NULL if there are none
    return &array[0] if array is not None and array.shape[0] > 0 else NULL
