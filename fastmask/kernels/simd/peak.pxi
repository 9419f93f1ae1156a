# The machine's peaks of fused multiply-adds and of products of integers, for benches and `python -m fastmask info`.

def fma_loop(Py_ssize_t repetitions):
    """Run repetitions * 12 * LANES independent multiply-adds; returns their number of operations."""
    cdef vec a[12]
    cdef vec x = v_set1(0.999999), y = v_set1(1e-6)
    cdef real sink[64]
    cdef Py_ssize_t k
    cdef int i
    with nogil:
        for i in range(12):
            a[i] = v_set1(0.1 * i)
        for k in range(repetitions):
            for i in range(12):
                a[i] = v_fma(a[i], x, y)
        for i in range(1, 12):
            a[0] = a[0] + a[i]
        v_store(sink, a[0])
    return 2 * 12 * LANES * repetitions if sink[0] == sink[0] else 0


def integer_loop(Py_ssize_t repetitions):
    """Run repetitions * 8 * LANES independent sums of two products of integers; returns their number of operations."""
    cdef vec a[8]
    cdef vec x = v_set1(0.0)
    cdef real sink[64]
    cdef Py_ssize_t k
    cdef int i
    with nogil:
        for i in range(8):
            a[i] = v_set1(0.0)
        for k in range(repetitions):
            for i in range(8):
                x = v_hold(x)   # otherwise one product would do for all
                a[i] = v_dot(x, x, a[i])
        for i in range(1, 8):
            a[0] = v_dot(a[0], a[i], a[0])
        v_store(sink, a[0])
    return 4 * 8 * LANES * repetitions if sink[0] == 0 else 0
