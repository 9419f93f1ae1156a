# Where the state before each token stands.

cdef void find_previous(const int64_t *batch_sizes, Py_ssize_t steps, Py_ssize_t batch_size,
                        int64_t *previous) noexcept nogil:
    # previous[n]: the state before packed token n among batch_size initial states, then one for each token.
    cdef Py_ssize_t i, t, token = 0, before = 0
    for t in range(steps):
        for i in range(batch_sizes[t]):
            previous[token + i] = before + i
        before = batch_size + token
        token = token + batch_sizes[t]
