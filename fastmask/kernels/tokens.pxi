# Sums and products of rows of tokens.

def segment_sum(const real[:, :] d, const int64_t[::1] index, real[:, ::1] out,
                Py_ssize_t begin, Py_ssize_t end):
    """out[index[n], k] += d[n, k] for columns begin to end, in the order of n; index -1 is left out."""
    cdef Py_ssize_t n, k, tokens = index.shape[0]
    cdef const real *source
    cdef real *target
    if tokens == 0 or begin >= end:
        return
    with nogil:
        for n in range(tokens):
            if index[n] < 0:
                continue
            source = &d[n, 0]
            target = &out[index[n], 0]
            k = begin
            while k + LANES <= end:
                v_store(target + k, v_load(target + k) + v_load(source + k))
                k = k + LANES
            while k < end:
                target[k] = target[k] + source[k]
                k = k + 1


def scale_rows(const real[:, ::1] x, const int64_t[::1] index, const real[:, ::1] factors, const int64_t[::1] rows,
               real[:, ::1] out):
    """out[n] = x[index[n]] * factors[rows[n]]; an index of None is the identity."""
    cdef Py_ssize_t n, k, columns = out.shape[1]
    cdef const real *source
    cdef const real *factor
    if out.shape[0] == 0 or columns == 0:
        return
    with nogil:
        for n in range(out.shape[0]):
            source = &x[index[n], 0] if index is not None else &x[n, 0]
            factor = &factors[rows[n], 0]
            for k in range(columns):
                out[n, k] = source[k] * factor[k]
