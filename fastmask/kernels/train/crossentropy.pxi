# Cross-entropy of class numbers with its gradient in one pass over a row: many classes do not fit the caches.

cdef real probability_row(const real *p, real *gradient, Py_ssize_t columns, int64_t label, double epsilon,
                          real scale) noexcept nogil:
    # -log(q) of q = p[label] / sum(p) within [epsilon, 1 - epsilon]; gradient = its derivative by p * scale
    cdef vec sums = v_set1(0.0)
    cdef vec others
    cdef real total, q, low = <real>epsilon, high = <real>(1 - epsilon)
    cdef Py_ssize_t k = 0
    while k < columns:
        sums = sums + load(p + k, lanes_left(columns, k))
        k = k + LANES
    total = sum_of_lanes(sums)
    q = p[label] / total
    if q < low or q > high:
        q = low if q < low else high
        scale = 0
    others = v_set1(scale / total)
    k = 0
    while k < columns:
        store(gradient + k, others, lanes_left(columns, k))
        k = k + LANES
    gradient[label] = scale * (1 - 1 / q) / total
    return <real>-log(q)


cdef real logit_row(const real *x, real *gradient, Py_ssize_t columns, int64_t label, real scale) noexcept nogil:
    # -log(softmax(x)[label]); gradient = its derivative by x * scale
    cdef real largest = largest_of(x, columns)
    cdef real total = exponentials(x, gradient, columns, largest)
    cdef real value = <real>log(total) - (x[label] - largest)
    cdef vec share = v_set1(scale / total)
    cdef Py_ssize_t k = 0
    cdef int n
    while k < columns:
        n = lanes_left(columns, k)
        store(gradient + k, load(gradient + k, n) * share, n)
        k = k + LANES
    gradient[label] = gradient[label] - scale
    return value


def sparse_crossentropy_of_logits(const real[:, ::1] x, const int64_t[::1] labels, const real[::1] scales,
                                  real[::1] values, real[:, ::1] gradient):
    """values = the loss of each row, gradient = scale times its derivative; labels must be legal."""
    cdef Py_ssize_t n
    with nogil:
        for n in range(x.shape[0]):
            values[n] = logit_row(&x[n, 0], &gradient[n, 0], x.shape[1], labels[n], scales[n])


def sparse_crossentropy(const real[:, ::1] p, const int64_t[::1] labels, const real[::1] scales, real[::1] values,
                        real[:, ::1] gradient, double epsilon):
    """The same of probabilities, which lie within [epsilon, 1 - epsilon] once they are divided by their sum."""
    cdef Py_ssize_t n
    with nogil:
        for n in range(p.shape[0]):
            values[n] = probability_row(&p[n, 0], &gradient[n, 0], p.shape[1], labels[n], epsilon, scales[n])
