# One pass over a parameter for each optimizer step. Formulas: Keras 3, where epsilon stands inside the
# root for RMSprop and outside for Adam.
#
# Arrays are flat. A gradient has every row, or, with `places`, row r has the gradient gradient[places[r]], and zeros
# where places[r] is negative. Such a row with state of zeros is at rest and stays as it is: the dense formula would
# change no bit of it. `resting` tells of which rows that is known, so that their state is not read. With `ids`, the
# gradient's row n belongs to row ids[n], and no other row changes.

cdef enum:
    SGD = 0
    RMSPROP = 1
    ADAM = 2
    BLOCK = 8192                # numbers that a thread takes in turn: rows at rest, often side by side, cost less

cdef struct Update:
    real *parameter
    const real *gradient        # NULL: zeros
    real *state[3]              # NULL where a variant does without
    const int64_t *places       # [rows], or NULL
    const int64_t *ids          # [rows], or NULL
    uint8_t *resting            # [rows], or NULL
    Py_ssize_t rows, columns    # a gradient of every row is one column
    real rate, decay, rest, rest_2, momentum, epsilon
    bint nesterov


ctypedef void (*UpdateRow)(const Update *u, Py_ssize_t columns) noexcept nogil


cdef inline vec gradient_at(const Update *u, Py_ssize_t k, int n) noexcept nogil:
    return load(u.gradient + k, n) if u.gradient != NULL else v_set1(0.0)


cdef void sgd_row(const Update *u, Py_ssize_t columns) noexcept nogil:
    # state: velocity
    cdef vec step, velocity
    cdef Py_ssize_t k = 0
    cdef int n
    while k < columns:
        n = lanes_left(columns, k)
        step = v_set1(u.rate) * gradient_at(u, k, n)
        if u.state[0] != NULL:
            velocity = v_set1(u.momentum) * load(u.state[0] + k, n) - step
            store(u.state[0] + k, velocity, n)
            step = step - v_set1(u.momentum) * velocity if u.nesterov else v_set1(0.0) - velocity
        store(u.parameter + k, load(u.parameter + k, n) - step, n)
        k = k + LANES


cdef void rmsprop_row(const Update *u, Py_ssize_t columns) noexcept nogil:
    # state: mean square, momentum buffer, mean
    cdef vec g, square, mean, step
    cdef Py_ssize_t k = 0
    cdef int n
    while k < columns:
        n = lanes_left(columns, k)
        g = gradient_at(u, k, n)
        square = v_set1(u.decay) * load(u.state[0] + k, n) + v_set1(u.rest) * g * g
        store(u.state[0] + k, square, n)
        square = square + v_set1(u.epsilon)
        if u.state[2] != NULL:
            mean = v_set1(u.decay) * load(u.state[2] + k, n) + v_set1(u.rest) * g
            store(u.state[2] + k, mean, n)
            square = square - mean * mean
        step = v_set1(u.rate) * g / v_sqrt(square)
        if u.state[1] != NULL:
            step = v_set1(u.momentum) * load(u.state[1] + k, n) + step
            store(u.state[1] + k, step, n)
        store(u.parameter + k, load(u.parameter + k, n) - step, n)
        k = k + LANES


cdef void adam_row(const Update *u, Py_ssize_t columns) noexcept nogil:
    # state: m, v, the largest v
    cdef vec g, m, v
    cdef Py_ssize_t k = 0
    cdef int n
    while k < columns:
        n = lanes_left(columns, k)
        g = gradient_at(u, k, n)
        m = load(u.state[0] + k, n)
        v = load(u.state[1] + k, n)
        m = m + (g - m) * v_set1(u.rest)
        v = v + (g * g - v) * v_set1(u.rest_2)
        store(u.state[0] + k, m, n)
        store(u.state[1] + k, v, n)
        if u.state[2] != NULL:
            v = v_max(v, load(u.state[2] + k, n))
            store(u.state[2] + k, v, n)
        store(u.parameter + k,
              load(u.parameter + k, n) - v_set1(u.rate) * m / (v_sqrt(v) + v_set1(u.epsilon)), n)
        k = k + LANES


cdef bint is_zero(const real *x, Py_ssize_t columns) noexcept nogil:
    cdef vec zero = v_set1(0.0)
    cdef Py_ssize_t k = 0
    if x == NULL:
        return True
    while columns - k >= 4 * LANES:
        if v_any_bit(v_load(x + k), v_load(x + k + LANES), v_load(x + k + 2 * LANES), v_load(x + k + 3 * LANES)):
            return False
        k = k + 4 * LANES
    while k < columns:
        if v_any_bit(load(x + k, lanes_left(columns, k)), zero, zero, zero):
            return False
        k = k + LANES
    return True


cdef inline void move_to_row(const Update *whole, Py_ssize_t row, Py_ssize_t source, Update *u) noexcept nogil:
    cdef int i
    u.parameter = whole.parameter + row * whole.columns
    u.gradient = whole.gradient + source * whole.columns if source >= 0 else NULL
    for i in range(3):
        u.state[i] = whole.state[i] + row * whole.columns if whole.state[i] != NULL else NULL


cdef inline bint has_zero_state(const Update *u) noexcept nogil:
    return is_zero(u.state[0], u.columns) and is_zero(u.state[1], u.columns) and is_zero(u.state[2], u.columns)


cdef void update_rows(UpdateRow update, const Update *whole, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update u = whole[0]
    cdef Py_ssize_t n
    if whole.places == NULL and whole.ids == NULL:
        move_to_row(whole, begin, begin, &u)
        update(&u, (end - begin) * whole.columns)
        return
    if whole.ids != NULL:
        for n in range(begin, end):
            move_to_row(whole, whole.ids[n], n, &u)
            update(&u, whole.columns)
        return
    for n in range(begin, end):
        if whole.resting != NULL and whole.resting[n]:
            continue
        move_to_row(whole, n, whole.places[n], &u)
        if u.gradient != NULL or not has_zero_state(&u):
            update(&u, whole.columns)
        elif whole.resting != NULL:
            whole.resting[n] = True


cdef class Updates:
    """An optimizer's step on parameters whose arrays stay where they are.

    rule: one of SGD, RMSPROP and ADAM. arrays: of each parameter a tuple of its columns, itself and its three states,
    which change in place; None where a variant does without.
    """

    cdef int rule
    cdef UpdateRow update
    cdef Py_ssize_t count
    cdef Update *updates        # [count], without what a step brings
    cdef list owners            # keeps the arrays behind the pointers alive

    def __cinit__(self, int rule, list arrays):
        cdef Update *u
        cdef Py_ssize_t i
        self.owners = arrays
        self.rule = rule
        self.update = sgd_row if rule == SGD else rmsprop_row if rule == RMSPROP else adam_row
        self.count = len(arrays)
        self.updates = <Update *>calloc(max(1, self.count), sizeof(Update))
        if self.updates == NULL:
            raise MemoryError()
        for i in range(self.count):
            u = &self.updates[i]
            columns, parameter, first, second, third = arrays[i]
            u.columns = columns
            u.parameter = <real *>numbers_of(parameter)
            u.state[0] = <real *>numbers_of(first)
            u.state[1] = <real *>numbers_of(second)
            u.state[2] = <real *>numbers_of(third)

    def __dealloc__(self):
        free(self.updates)

    def run(self, tuple rates, list changes, int part, int parts):
        """Make one of several parts of a step, which may run at the same time.

        rates: of SGD learning rate, momentum and whether it is Nesterov's; of RMSPROP learning rate, rho, momentum and
        epsilon; of ADAM alpha, the two betas and epsilon. changes: of each parameter its gradient, the places or the
        ids of its rows, or None, and which of them are known to be at rest, or None. Those that are found to be are
        added there; with places, no row that has a gradient may be among them.
        """
        cdef uint64_t mode
        cdef Py_ssize_t i, begin, rows, block = 0
        cdef Update *u
        cdef Update *updates = <Update *>malloc(max(1, self.count) * sizeof(Update))
        if updates == NULL:
            raise MemoryError()
        try:
            for i in range(self.count):
                updates[i] = self.updates[i]
                set_rates(&updates[i], self.rule, rates)
                gradient, places, ids, resting = changes[i]
                take_change(&updates[i], gradient, places, ids, resting)
            with nogil:
                mode = flush_denormals()
                for i in range(self.count):
                    u = &updates[i]
                    rows = max(1, BLOCK // max(1, u.columns))
                    begin = 0
                    while begin < u.rows:
                        if block % parts == part:
                            update_rows(self.update, u, begin, min(begin + rows, u.rows))
                        begin = begin + rows
                        block = block + 1
                set_float_mode(mode)
        finally:
            free(updates)


cdef int set_rates(Update *u, int rule, tuple rates) except -1:
    cdef double rate, first, second, epsilon
    if rule == SGD:
        rate, first, second = rates
        u.rate = rate
        u.momentum = first
        u.nesterov = second != 0
        return 0
    rate, first, second, epsilon = rates
    u.rate = rate
    u.epsilon = epsilon
    u.rest = 1 - first
    if rule == RMSPROP:
        u.decay = first
        u.momentum = second
    else:
        u.rest_2 = 1 - second
    return 0


cdef int take_change(Update *u, const real[::1] gradient, const int64_t[::1] places,
                     const int64_t[::1] ids, uint8_t[::1] resting) except -1:
    u.gradient = numbers_of(gradient)
    if places is not None:
        u.rows = places.shape[0]
        if u.rows > 0:
            u.places = &places[0]
            u.resting = &resting[0] if resting is not None else NULL
    elif ids is not None:
        u.rows = ids.shape[0]
        u.ids = &ids[0] if u.rows > 0 else NULL
    else:
        u.rows = gradient.shape[0]
        u.columns = 1
    return 0
