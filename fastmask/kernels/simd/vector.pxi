# The vector vocabulary of simd.h and the mathematics written in it.

from libc.math cimport erf, exp, log, log1p
from libc.stdint cimport int8_t, int16_t, int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #undef CYTHON_INLINE
    #define CYTHON_INLINE __inline__ __attribute__((always_inline))
    """

cdef extern from "simd/simd.h" nogil:
    ctypedef float real
    ctypedef float vec
    enum:
        LANES
        ROWS
        INTEGER_ROWS
        PANELS
        IS_DOUBLE
        SQUARE
        TURNED
    uint64_t flush_denormals()
    void set_float_mode(uint64_t mode)
    void v_prefetch(const real *p)
    void v_prefetch_near(const real *p)
    void v_prefetch_own(const real *p)
    vec v_load(const real *p)
    void v_store(real *p, vec x)
    vec v_load_tail(const real *p, int n)
    void v_store_tail(real *p, vec x, int n)
    vec v_set1(double x)
    vec v_hold(vec x)
    vec v_fma(vec a, vec b, vec c)
    vec v_broadcast(const real *p)
    vec v_dot(vec x, vec b, vec a)
    vec v_from_integers(vec x)
    void v_store_shorts(int16_t *p, vec t)
    vec v_min(vec a, vec b)
    vec v_max(vec a, vec b)
    vec v_sqrt(vec x)
    bint v_any_bit(vec a, vec b, vec c, vec d)
    vec v_negate_abs(vec x)
    vec v_where_negative(vec x, vec a, vec b)
    vec v_pow2(vec t)
    vec v_scale(vec x, vec n)
    vec v_divide(vec a, vec b, vec rest)
    vec v_interleave_lower(vec a, vec b)
    vec v_interleave_upper(vec a, vec b)
    vec v_load_squares(const real *p, Py_ssize_t stride)
    double ROUNDER


cdef inline vec load(const real *p, int n) noexcept nogil:
    return v_load(p) if n == LANES else v_load_tail(p, n)


cdef inline void store(real *p, vec x, int n) noexcept nogil:
    if n == LANES:
        v_store(p, x)
    else:
        v_store_tail(p, x, n)


cdef inline int lanes_left(Py_ssize_t columns, Py_ssize_t column) noexcept nogil:
    return LANES if columns - column >= LANES else <int>(columns - column)


# What follows works on n vectors at a time, n a literal: each is a long chain of dependent operations, and a
# processor looks ahead too little to overlap several chains that stand one behind the other.

cdef enum:
    PAIR = 2            # rows whose cells are computed together
    GROUP = 3 * PAIR    # most vectors at a time


cdef inline void exp_minus_one_reduced(const int n, const vec *r, vec *y) noexcept nogil:
    # exp(r) - 1 for |r| <= ln(2) / 2 as r + r * r * q(r); q is the Chebyshev fit of degree 4
    # (float, relative error 1.2e-8) or 10 (double, 3e-19).
    cdef vec q[GROUP]
    cdef int i
    if IS_DOUBLE:
        for i in range(n):
            q[i] = v_fma(v_set1(2.0914686968086877e-9), r[i], v_set1(2.5105217004720745e-8))
        add_term(n, r, q, 2.7557273643110295e-7)
        add_term(n, r, q, 2.7557255400206424e-6)
        add_term(n, r, q, 2.4801587325547741e-5)
        add_term(n, r, q, 1.9841269874820625e-4)
        add_term(n, r, q, 1.3888888888883748e-3)
        add_term(n, r, q, 8.3333333333261351e-3)
        add_term(n, r, q, 4.1666666666666670e-2)
        add_term(n, r, q, 1.6666666666666671e-1)
    else:
        for i in range(n):
            q[i] = v_fma(v_set1(1.3926183587713495e-3), r[i], v_set1(8.3631790528225774e-3))
        add_term(n, r, q, 4.1666554617204574e-2)
        add_term(n, r, q, 1.6666576989698776e-1)
    add_term(n, r, q, 0.5)
    for i in range(n):
        y[i] = v_fma(q[i], r[i] * r[i], r[i])


cdef inline void add_term(const int n, const vec *r, vec *q, const double term) noexcept nogil:
    cdef int i
    for i in range(n):
        q[i] = v_fma(q[i], r[i], v_set1(term))


cdef inline vec rounded_power(vec x) noexcept nogil:
    # n + ROUNDER for the integer n nearest to x / ln(2)
    return v_fma(x, v_set1(1.4426950408889634), v_set1(ROUNDER))


cdef inline void exp_from(const int count, const vec *x, vec *y) noexcept nogil:
    # exp(x) for x that cannot leave the range of rounded_power. x - n * ln(2) is taken in two parts (Cody and
    # Waite 1980); the first has trailing zeros, so n * it is exact.
    cdef vec n[GROUP]
    cdef vec r[GROUP]
    cdef int i
    for i in range(count):
        n[i] = rounded_power(x[i]) - v_set1(ROUNDER)
    for i in range(count):
        r[i] = v_fma(n[i], v_set1(-0.6931471801362932 if IS_DOUBLE else -0.693145751953125), x[i])
    for i in range(count):
        r[i] = v_fma(n[i], v_set1(-4.2365213658092841e-10 if IS_DOUBLE else -1.4286068203094172e-6), r[i])
    exp_minus_one_reduced(count, r, y)
    for i in range(count):
        y[i] = v_scale(v_set1(1.0) + y[i], n[i])


cdef inline vec v_exp(vec x) noexcept nogil:
    # The constants stand first: v_min and v_max give their second argument where it is NaN.
    cdef vec y
    x = v_min(v_set1(710.0 if IS_DOUBLE else 89.0), v_max(v_set1(-746.0 if IS_DOUBLE else -104.0), x))
    exp_from(1, &x, &y)
    return y


cdef inline void expm1_bounded(const int n, const vec *x, vec *y) noexcept nogil:
    # exp(x) - 1 where exp(x) is a normal number
    cdef vec power[GROUP]
    cdef vec r[GROUP]
    cdef int i
    for i in range(n):
        power[i] = rounded_power(x[i])
    for i in range(n):
        r[i] = power[i] - v_set1(ROUNDER)
        power[i] = v_pow2(power[i])
    for i in range(n):
        if IS_DOUBLE:
            y[i] = v_fma(r[i], v_set1(-0.6931471801362932), x[i])
            r[i] = v_fma(r[i], v_set1(-4.2365213658092841e-10), y[i])
        else:
            # One part is enough: it is off by n * 1.9e-9, and exact for n = 0, where the result is small.
            r[i] = v_fma(r[i], v_set1(-0.6931471805599453), x[i])
    exp_minus_one_reduced(n, r, y)
    for i in range(n):
        y[i] = v_fma(power[i], y[i], power[i] - v_set1(1.0))


cdef inline vec v_expm1_bounded(vec x) noexcept nogil:
    cdef vec y
    expm1_bounded(1, &x, &y)
    return y


cdef inline void sigmoids(const int n, vec *x) noexcept nogil:
    # exp(-|x|) cannot overflow, and the quotient keeps its relative accuracy on the negative side.
    cdef vec e[GROUP]
    cdef vec sum
    cdef int i
    for i in range(n):
        e[i] = v_max(v_set1(-746.0 if IS_DOUBLE else -104.0), v_negate_abs(x[i]))
    exp_from(n, e, e)
    for i in range(n):
        sum = v_set1(1.0) + e[i]
        x[i] = v_divide(v_where_negative(x[i], e[i], v_set1(1.0)), sum, e[i] - (sum - v_set1(1.0)))


cdef inline void tanhs(const int n, vec *x) noexcept nogil:
    # tanh(x) = (exp(2x) - 1) / (exp(2x) + 1); exact to the last bits near zero because of expm1.
    cdef vec bound = v_set1(20.0 if IS_DOUBLE else 10.0)
    cdef vec e[GROUP]
    cdef vec sum
    cdef int i
    for i in range(n):
        x[i] = v_min(bound, v_max(v_set1(0.0) - bound, x[i]))
        x[i] = x[i] + x[i]
    expm1_bounded(n, x, e)
    for i in range(n):
        sum = v_set1(2.0) + e[i]
        x[i] = v_divide(e[i], sum, e[i] - (sum - v_set1(2.0)))


cdef inline vec v_sigmoid(vec x) noexcept nogil:
    sigmoids(1, &x)
    return x


cdef inline vec v_tanh(vec x) noexcept nogil:
    tanhs(1, &x)
    return x
