# Activation functions by code, on one vector and on arrays.

cpdef enum Activation:
    LINEAR, TANH, SIGMOID, HARD_SIGMOID, RELU, SOFTSIGN, ELU, HARD_SIGMOID_KERAS2
    EXPONENTIAL, SELU, SILU, SOFTPLUS, GELU, SOFTMAX


cdef inline vec v_abs(vec x) noexcept nogil:
    return v_set1(0.0) - v_negate_abs(x)


cdef inline vec v_elu(vec x) noexcept nogil:
    cdef vec below = v_min(v_set1(0.0), v_max(v_set1(-700.0 if IS_DOUBLE else -80.0), x))
    return v_where_negative(x, v_expm1_bounded(below), x)


cdef vec activate(int kind, vec x) noexcept nogil:
    # Not inlined: the fused paths call v_tanh and v_sigmoid by name.
    if kind == TANH:
        return v_tanh(x)
    if kind == SIGMOID:
        return v_sigmoid(x)
    if kind == HARD_SIGMOID:
        return v_min(v_set1(1.0), v_max(v_set1(0.0), v_fma(x, v_set1(1.0 / 6.0), v_set1(0.5))))
    if kind == HARD_SIGMOID_KERAS2:
        return v_min(v_set1(1.0), v_max(v_set1(0.0), v_fma(x, v_set1(0.2), v_set1(0.5))))
    if kind == RELU:
        return v_max(v_set1(0.0), x)
    if kind == SOFTSIGN:
        return x / (v_set1(1.0) + v_abs(x))
    if kind == ELU:
        return v_elu(x)
    if kind == EXPONENTIAL:
        return v_exp(x)
    if kind == SELU:
        x = v_where_negative(x, v_set1(1.6732632423543772) * v_elu(x), x)
        return v_set1(1.0507009873554805) * x
    if kind == SILU:
        return x * v_sigmoid(x)
    return x


cdef inline void squash(const bint fused, int kind, const int n, vec *x) noexcept nogil:
    # x = activation of x; fused: kind is a literal, TANH or SIGMOID
    cdef int i
    if fused and kind == TANH:
        tanhs(n, x)
    elif fused:
        sigmoids(n, x)
    else:
        for i in range(n):
            x[i] = activate(kind, x[i])


cdef inline vec positive(vec y) noexcept nogil:
    # 1 where y > 0, 0 elsewhere
    return v_where_negative(v_set1(0.0) - y, v_set1(1.0), v_set1(0.0))


cdef inline vec slope(const int kind, vec y) noexcept nogil:
    # The derivative of an activation of a recurrent layer as a function of its value y.
    cdef vec one = v_set1(1.0)
    cdef vec rest
    if kind == TANH:
        return v_fma(v_set1(0.0) - y, y, one)
    if kind == SIGMOID:
        return y * (one - y)
    if kind == HARD_SIGMOID:
        return v_set1(1.0 / 6.0) * positive(y) * positive(one - y)
    if kind == HARD_SIGMOID_KERAS2:
        return v_set1(0.2) * positive(y) * positive(one - y)
    if kind == RELU:
        return positive(y)
    if kind == SOFTSIGN:
        rest = one - v_abs(y)
        return rest * rest
    if kind == ELU:
        return v_where_negative(y, y + one, one)
    return one


cdef inline real softplus(real x) noexcept nogil:
    return <real>((x if x > 0 else 0) + log1p(exp(-x if x > 0 else x)))


cdef inline real gelu(real x) noexcept nogil:
    return <real>(0.5 * x * (1 + erf(x * 0.7071067811865476)))


cdef inline real gelu_slope(real x) noexcept nogil:
    # Phi(x) + x * phi(x)
    return <real>(0.5 * (1 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x))


cdef inline real sum_of_lanes(vec x) noexcept nogil:
    # By halves: a chain of sums would take longer than a short row.
    cdef real lanes[LANES]
    cdef int k, half = LANES // 2
    v_store(lanes, x)
    while half > 0:
        for k in range(half):
            lanes[k] = lanes[k] + lanes[k + half]
        half = half // 2
    return lanes[0]


cdef real largest_of(const real *x, Py_ssize_t columns) noexcept nogil:
    # Of numbers none of which is NaN; otherwise any of them.
    cdef vec most = v_set1(x[0])
    cdef real lanes[LANES]
    cdef real largest = x[0]
    cdef Py_ssize_t k = 0
    cdef int i
    while columns - k >= LANES:
        most = v_max(most, v_load(x + k))
        k = k + LANES
    v_store(lanes, most)
    for i in range(LANES):
        largest = lanes[i] if lanes[i] > largest else largest
    for k in range(k, columns):
        largest = x[k] if x[k] > largest else largest
    return largest


cdef real exponentials(const real *x, real *y, Py_ssize_t columns, real largest) noexcept nogil:
    # y = exp(x - largest); returns the sum, which a NaN in x makes NaN
    cdef vec power
    cdef vec sums = v_set1(0.0)
    cdef real total
    cdef Py_ssize_t k = 0
    while columns - k >= LANES:
        power = v_exp(v_load(x + k) - v_set1(largest))
        v_store(y + k, power)
        sums = sums + power
        k = k + LANES
    total = sum_of_lanes(sums)
    if k < columns:
        store(y + k, v_exp(load(x + k, lanes_left(columns, k)) - v_set1(largest)), lanes_left(columns, k))
    for k in range(k, columns):
        total = total + y[k]
    return total


cdef void softmax_row(const real *x, real *y, Py_ssize_t columns) noexcept nogil:
    # The sum is at least 1, as v_divide asks for.
    cdef vec total = v_set1(exponentials(x, y, columns, largest_of(x, columns)))
    cdef Py_ssize_t k = 0
    cdef int n
    while k < columns:
        n = lanes_left(columns, k)
        store(y + k, v_divide(load(y + k, n), total, v_set1(0.0)), n)
        k = k + LANES


cdef void softmax_row_backward(const real *y, const real *dy, real *dx, Py_ssize_t columns) noexcept nogil:
    # The rest of a row goes by single numbers: to load and store parts of vectors takes longer.
    cdef vec sums = v_set1(0.0)
    cdef real total
    cdef Py_ssize_t k = 0, whole = columns - columns % LANES
    while k < whole:
        sums = v_fma(v_load(dy + k), v_load(y + k), sums)
        k = k + LANES
    total = sum_of_lanes(sums) if whole > 0 else 0
    for k in range(whole, columns):
        total = total + dy[k] * y[k]
    k = 0
    while k < whole:
        v_store(dx + k, v_load(y + k) * (v_load(dy + k) - v_set1(total)))
        k = k + LANES
    for k in range(whole, columns):
        dx[k] = y[k] * (dy[k] - total)


cdef void activate_row(int kind, const real *x, real *y, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t k = 0
    if kind == SOFTMAX:
        softmax_row(x, y, columns)
    elif kind == SOFTPLUS:
        for k in range(columns):
            y[k] = softplus(x[k])
    elif kind == GELU:
        for k in range(columns):
            y[k] = gelu(x[k])
    else:
        while k < columns:
            store(y + k, activate(kind, load(x + k, lanes_left(columns, k))), lanes_left(columns, k))
            k = k + LANES


cdef vec input_slope(int kind, vec x, vec y) noexcept nogil:
    # The derivative of an activation at x with value y.
    cdef vec s
    if kind == EXPONENTIAL:
        return y
    if kind == SELU:
        return v_where_negative(x, y + v_set1(1.7580993408473766), v_set1(1.0507009873554805))
    if kind == SILU:
        s = v_sigmoid(x)
        return v_fma(y, v_set1(1.0) - s, s)
    return slope(kind, y)


cdef void activate_row_backward(int kind, const real *x, const real *y, const real *dy, real *dx,
                                Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t k = 0
    cdef int n
    if kind == SOFTMAX:
        softmax_row_backward(y, dy, dx, columns)
    elif kind == SOFTPLUS:
        for k in range(columns):
            dx[k] = dy[k] / (1 + <real>exp(-x[k]))
    elif kind == GELU:
        for k in range(columns):
            dx[k] = dy[k] * gelu_slope(x[k])
    else:
        while k < columns:
            n = lanes_left(columns, k)
            store(dx + k, load(dy + k, n) * input_slope(kind, load(x + k, n), load(y + k, n)), n)
            k = k + LANES


def activate_rows(int kind, const real[:, ::1] x, real[:, ::1] y, Py_ssize_t begin, Py_ssize_t end):
    """y = activation(x) for the rows begin to end; y may be x."""
    cdef Py_ssize_t n
    if x.shape[1] == 0:
        return
    with nogil:
        for n in range(begin, end):
            activate_row(kind, &x[n, 0], &y[n, 0], x.shape[1])


def activate_rows_backward(int kind, const real[:, ::1] x, const real[:, ::1] y, const real[:, ::1] dy, real[:, ::1] dx,
                           Py_ssize_t begin, Py_ssize_t end):
    """dx = dy * derivative at x (value y) for the rows begin to end."""
    cdef Py_ssize_t n
    if x.shape[1] == 0:
        return
    with nogil:
        for n in range(begin, end):
            activate_row_backward(kind, &x[n, 0], &y[n, 0], &dy[n, 0], &dx[n, 0], x.shape[1])
