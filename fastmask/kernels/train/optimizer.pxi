# One pass over a parameter for each optimizer step. Formulas: Keras 3, where epsilon stands inside the
# root for RMSprop and outside for Adam.
#
# Parameters are [rows, columns]. A gradient has every row, or, with `place`, row r has the gradient
# gradient[place[r]], and zeros where place[r] is negative. Such a row with state of zeros is at rest and stays as
# it is: the dense formula would change no bit of it. The step leaves in place[r] whether r is at rest or UNKNOWN, and
# the next one, given this, does not read the state of rows at rest: of a table of 20,000 rows that takes 2 ms, and
# most batches name 600. Lazy steps take the ids of the gradient's rows, and no other row.

cdef enum:
    UNKNOWN = -1
    AT_REST = -2

cdef struct Update:
    real *parameter
    const real *gradient        # NULL: zeros
    real *state[3]              # NULL where a variant does without
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


cdef inline void move_to_row(const Update *whole, Py_ssize_t row, Py_ssize_t columns, Update *u) noexcept nogil:
    cdef int i
    u.parameter = whole.parameter + row * columns
    for i in range(3):
        u.state[i] = whole.state[i] + row * columns if whole.state[i] != NULL else NULL


cdef inline bint has_zero_state(const Update *u, Py_ssize_t columns) noexcept nogil:
    return is_zero(u.state[0], columns) and is_zero(u.state[1], columns) and is_zero(u.state[2], columns)


cdef void update_rows(UpdateRow update, const Update *whole, int64_t[::1] place, Py_ssize_t columns,
                      Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update u = whole[0]
    cdef Py_ssize_t row
    for row in range(begin, end):
        if place is not None and place[row] == AT_REST:
            continue
        move_to_row(whole, row, columns, &u)
        u.gradient = whole.gradient + row * columns
        if place is not None:
            u.gradient = whole.gradient + place[row] * columns if place[row] >= 0 else NULL
            if u.gradient == NULL and has_zero_state(&u, columns):
                place[row] = AT_REST
                continue
            place[row] = UNKNOWN
        update(&u, columns)


cdef void update_named_rows(UpdateRow update, const Update *whole, const int64_t[::1] ids, Py_ssize_t columns,
                            Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # row ids[n] with the gradient's row n; the other rows stay as they are
    cdef Update u = whole[0]
    cdef Py_ssize_t n
    for n in range(begin, end):
        move_to_row(whole, ids[n], columns, &u)
        u.gradient = whole.gradient + n * columns
        update(&u, columns)


cdef Update new_update(real[:, ::1] parameter, const real[:, ::1] gradient, real[:, ::1] first, real[:, ::1] second,
                       real[:, ::1] third):
    cdef Update u
    memset(&u, 0, sizeof(Update))
    u.parameter = &parameter[0, 0]
    u.gradient = &gradient[0, 0]
    u.state[0] = &first[0, 0] if first is not None else NULL
    u.state[1] = &second[0, 0] if second is not None else NULL
    u.state[2] = &third[0, 0] if third is not None else NULL
    return u


def sgd_step(real[:, ::1] parameter, const real[:, ::1] gradient, int64_t[::1] place, real[:, ::1] velocity,
             double learning_rate, double momentum, bint nesterov, Py_ssize_t begin, Py_ssize_t end):
    """w -= lr * g; with momentum v = momentum * v - lr * g, w += v or, Nesterov, w += momentum * v - lr * g."""
    cdef uint64_t mode
    cdef Update u = new_update(parameter, gradient, velocity, None, None)
    u.rate = learning_rate
    u.momentum = momentum
    u.nesterov = nesterov
    with nogil:
        mode = flush_denormals()
        update_rows(sgd_row, &u, place, parameter.shape[1], begin, end)
        set_float_mode(mode)


def rmsprop_step(real[:, ::1] parameter, const real[:, ::1] gradient, int64_t[::1] place,
                 real[:, ::1] mean_square, real[:, ::1] momentum_buffer, real[:, ::1] mean, double learning_rate,
                 double rho, double momentum, double epsilon, Py_ssize_t begin, Py_ssize_t end):
    """v = rho v + (1 - rho) g g; u = lr g / sqrt(v - mean mean + epsilon); with momentum p = momentum p + u; w -= p."""
    cdef uint64_t mode
    cdef Update u = new_update(parameter, gradient, mean_square, momentum_buffer, mean)
    u.rate = learning_rate
    u.decay = rho
    u.rest = 1 - rho
    u.momentum = momentum
    u.epsilon = epsilon
    with nogil:
        mode = flush_denormals()
        update_rows(rmsprop_row, &u, place, parameter.shape[1], begin, end)
        set_float_mode(mode)


cdef Update new_adam(real[:, ::1] parameter, const real[:, ::1] gradient, real[:, ::1] m, real[:, ::1] v,
                     real[:, ::1] v_max, double alpha, double beta_1, double beta_2, double epsilon):
    cdef Update u = new_update(parameter, gradient, m, v, v_max)
    u.rate = alpha
    u.rest = 1 - beta_1
    u.rest_2 = 1 - beta_2
    u.epsilon = epsilon
    return u


def adam_step(real[:, ::1] parameter, const real[:, ::1] gradient, int64_t[::1] place, real[:, ::1] m,
              real[:, ::1] v, real[:, ::1] v_max, double alpha, double beta_1, double beta_2, double epsilon,
              Py_ssize_t begin, Py_ssize_t end):
    """m += (g - m)(1 - beta_1); v += (g g - v)(1 - beta_2); w -= alpha * m / (sqrt(v) + epsilon)."""
    cdef uint64_t mode
    cdef Update u = new_adam(parameter, gradient, m, v, v_max, alpha, beta_1, beta_2, epsilon)
    with nogil:
        mode = flush_denormals()
        update_rows(adam_row, &u, place, parameter.shape[1], begin, end)
        set_float_mode(mode)


def lazy_adam_step(real[:, ::1] parameter, const real[:, ::1] gradient, const int64_t[::1] ids, real[:, ::1] m,
                   real[:, ::1] v, real[:, ::1] v_max, double alpha, double beta_1, double beta_2, double epsilon,
                   Py_ssize_t begin, Py_ssize_t end):
    """adam_step of the rows ids[begin] to ids[end - 1], which must be legal and distinct, and of no others."""
    cdef uint64_t mode
    cdef Update u = new_adam(parameter, gradient, m, v, v_max, alpha, beta_1, beta_2, epsilon)
    with nogil:
        mode = flush_denormals()
        update_named_rows(adam_row, &u, ids, parameter.shape[1], begin, end)
        set_float_mode(mode)
