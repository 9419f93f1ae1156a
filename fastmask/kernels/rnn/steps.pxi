# What the recurrent cells share: codes, one time step forwards and one backwards, and the order of their vectors.

cpdef enum:             # kinds of cells
    SIMPLE_RNN
    LSTM
    GRU                 # resets after the product of the states
    GRU_RESET_BEFORE


cdef inline int input_gates(const int cell) noexcept nogil:
    # Columns of the kernel for each unit
    return 4 if cell == LSTM else 1 if cell == SIMPLE_RNN else 3


cdef inline int state_gates(const int cell) noexcept nogil:
    # Columns of the recurrent kernel for each unit that meet h itself
    return 2 if cell == GRU_RESET_BEFORE else input_gates(cell)


cdef inline bint is_gru(const int cell) noexcept nogil:
    # Its products of the states are kept apart from those of the inputs, and part of h goes past all products.
    return cell == GRU or cell == GRU_RESET_BEFORE


cdef struct Step:
    # One time step over rows of a run. Gate k of a row stands at k * units.
    Py_ssize_t units
    Py_ssize_t depth            # units, or words of a quantised row, or 0 where no states are to be multiplied
    Py_ssize_t candidate_depth  # the same for the second product of GRU_RESET_BEFORE
    const real *x               # in   [rows, x_stride] what the products of a phase meet: states, quantised or not
    Py_ssize_t x_stride
    int activation, recurrent_activation
    const real *z               # in   [*, gates * units]  input products plus bias
    const int64_t *z_index      # in   [rows] or NULL
    bint table                  # z is a table: its rows come from anywhere
    const real *panels          # in   recurrent kernel: [units / LANES, rounded up][units][gates][LANES]
    const real *candidate       # in   GRU_RESET_BEFORE: U_n, as the kernel of a SimpleRNN in panels of WIDTH vectors
    const real *column_units    # in   [gates * units] of a quantised recurrent kernel, or NULL
    const real *candidate_units  # in  [units] of a quantised U_n
    const real *start           # in   GRU: what the products start from, with LANES numbers behind it, or NULL
    Py_ssize_t start_stride     # from row to row of it; 0: one for all, a bias
    const real *reset_mask      # in   [rows, units] or NULL: dropout of the h that GRU_RESET_BEFORE resets
    const real *h_previous      # in   [rows, units]
    const real *c_previous      # in   [rows, units] of an LSTM
    real *h                     # out  [rows, units]
    real *c                     # out  [rows, units] of an LSTM, may be c_previous
    real *gates                 # out  [rows, 4 * units] of an LSTM i, f, g, o; of a GRU n, z, r and a fourth; or NULL


cdef struct BackwardStep:
    # One time step backwards. The gradient of h is dy plus what comes from the next step, d[next] @ transposed U, or,
    # where a row ends, from its final state: dh brings the final states in and takes what passes h by.
    Py_ssize_t units
    Py_ssize_t depth, candidate_depth   # columns of d that meet panels and candidate
    Py_ssize_t first, stride    # the columns of d from the first on belong to the states; from row to row of d
    int activation, recurrent_activation
    const real *panels          # in   transposed recurrent kernel, columns in panels of WIDTH vectors
    const real *candidate       # in   GRU_RESET_BEFORE: transposed U_n
    const real *reset_mask      # in   [rows, units] or NULL
    const real *h               # in   [batch + tokens, units]
    const real *c               # in   [batch + tokens, units] of an LSTM
    const real *dy              # in   [tokens, units] or NULL
    const real *products        # in   [rows, units] or NULL: d[next] @ transposed U, made already (recurrent dropout)
    real *d                     # out  [tokens, stride] gradients of pre-activations; in: gates, but of a SimpleRNN
    real *dh                    # in/out [batch, units]
    real *dc                    # in/out [batch, units] of an LSTM
    bint passes                 # a part of the gradient goes through dh to rows that go on, too
    # Of the first row of the run:
    Py_ssize_t token, next_token, row
    Py_ssize_t before, after    # its states before and after the step, in h and c


# The cells of a panel's columns in one step
ctypedef void (*ForwardPhase)(const Step *s, Py_ssize_t rows, const Columns *columns) noexcept nogil
# The same backwards. The first rows have a next step.
ctypedef void (*BackwardPhase)(const BackwardStep *s, Py_ssize_t going_on, Py_ssize_t rows,
                               const Columns *columns) noexcept nogil


# Cells are computed `count` at a time: one vector of units of as many rows, or, `across`, as many vectors of one row.

cdef inline Py_ssize_t cell_row(const bint across, Py_ssize_t row, int i) noexcept nogil:
    return row if across else row + i


cdef inline Py_ssize_t cell_unit(const bint across, Py_ssize_t unit, int i) noexcept nogil:
    return unit + i * LANES if across else unit


# Where all vectors of a tile are whole, which is known beforehand, their loads and stores need no choice: with it the
# cells of a GRU of 32 units took 3 % longer.

cdef inline bint whole_units(const bint across, Py_ssize_t units, Py_ssize_t unit, int count) noexcept nogil:
    return cell_unit(across, unit, count - 1 if across else 0) + LANES <= units


cdef inline int cell_lanes(const bint whole, Py_ssize_t units, Py_ssize_t unit) noexcept nogil:
    return LANES if whole else lanes_left(units, unit)


cdef inline void activate_sums(const Step *s, const real *x, vec *sums, Py_ssize_t unit, int width) noexcept nogil:
    # Products of the states become activations of these plus products of the inputs, which stand at x.
    cdef int j
    for j in range(width):
        sums[j] = load(x + j * LANES, lanes_left(s.units, unit + j * LANES)) + sums[j]
    if width == WIDTH and s.activation == TANH:
        tanhs(WIDTH, sums)
    else:
        squash(False, s.activation, width, sums)
