/* The vector type that Cython lacks: `vec`, a register of LANES numbers of type `real`.
 *
 * The build defines FASTMASK_DOUBLE (0: real is float, 1: real is double) and picks the instruction set
 * by -march. Every function is a few lines; the mathematics is in the .pxi files.
 */
#ifndef FASTMASK_SIMD_H
#define FASTMASK_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* BYTES: width of a register. ROWS: rows of a register tile that is four vectors wide, chosen so that
 * ROWS * 4 accumulators, ROWS broadcast values and one vector of weights fit the register file. */
#if defined(__AVX512F__)
enum { BYTES = 64, ROWS = 6 };
#elif defined(__AVX2__)
enum { BYTES = 32, ROWS = 3 };
#elif defined(__aarch64__)
enum { BYTES = 16, ROWS = 6 };
#else
enum { BYTES = 16, ROWS = 2 };
#endif

#if FASTMASK_DOUBLE
typedef double real;
typedef int64_t bits;
enum { MANTISSA_BITS = 52, EXPONENT_BIAS = 1023 };
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: adding it leaves the nearest integer in the low bits */
#define SUFFIX(name) name##d
#else
typedef float real;
typedef int32_t bits;
enum { MANTISSA_BITS = 23, EXPONENT_BIAS = 127 };
#define ROUNDER 12582912.0f /* 1.5 * 2^23 */
#define SUFFIX(name) name##s
#endif

/* Rows of a tile of integers, whose products need a register before they are added: a taller one spills, and an AVX2
 * machine then makes 105 instead of 155 billion operations a second. */
enum { INTEGER_ROWS = ROWS == 3 ? 2 : ROWS };

enum { PANELS = ROWS < 4 ? ROWS : 4 }; /* panels that a single row meets at a time */
enum { LANES = BYTES / sizeof(real), IS_DOUBLE = FASTMASK_DOUBLE };

/* vectors of columns that are turned over at a time: two chains of additions at least, and no more than 16 streams of
 * memory, as lines of more would push each other out of the first-level cache */
enum { TURNED = LANES < 8 ? 16 / LANES : 2 };

typedef real vec __attribute__((vector_size(BYTES)));
typedef bits ivec __attribute__((vector_size(BYTES)));
typedef real unaligned_vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* From now on numbers nearer to zero than the smallest normal one count as zeros, in and out of every operation.
 * Gradients that vanish over many steps come there, and each operation on one would take 150 cycles. Returns the
 * mode to go back to. */
INLINE uint64_t flush_denormals(void) {
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zeros */
    return mode;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (uint64_t)1 << 24) : "memory");
    return mode;
#else
    return 0;
#endif
}
INLINE void set_float_mode(uint64_t mode) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
#else
    (void)mode;
#endif
}

INLINE vec v_load(const real *p) { return *(const unaligned_vec *)p; }
INLINE void v_store(real *p, vec x) { *(unaligned_vec *)p = x; }
/* as far as the second-level cache, as far as the first, and to be written to */
INLINE void v_prefetch(const real *p) { __builtin_prefetch(p, 0, 2); }
INLINE void v_prefetch_near(const real *p) { __builtin_prefetch(p, 0, 3); }
INLINE void v_prefetch_own(const real *p) { __builtin_prefetch(p, 1, 3); }
INLINE vec v_set1(real x) { return x - (vec){0}; } /* x - 0 is x for every x: a plain broadcast */

/* x, held in a register: GCC otherwise loads a vector of weights again for each of up to three rows, which
 * halves the speed while the weights come from the second-level cache. */
INLINE vec v_hold(vec x) {
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

/* a * b + c, rounded once where the machine has such an instruction. Written out, never left to the
 * compiler's contraction: two inlined copies of one formula must give the same bits. */
INLINE vec v_fma(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return SUFFIX(_mm512_fmadd_p)(a, b, c);
#elif defined(__FMA__)
    return SUFFIX(_mm256_fmadd_p)(a, b, c);
#elif defined(__aarch64__) && FASTMASK_DOUBLE
    return vfmaq_f64(c, a, b);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

/* A number for each lane, as its bits stand in memory: pairs of 16-bit integers do not survive arithmetic. */
INLINE vec v_broadcast(const real *p) {
    ivec x = {0};
    bits b;
    memcpy(&b, p, sizeof(b));
    return (vec)(x + b);
}

/* Products of signed 16-bit integers, summed in pairs into 32-bit integers: each lane of x and b holds two of the
 * former, each of a one of the latter. Lanes of 64 bits hold no integers. */
INLINE vec v_dot(vec x, vec b, vec a) {
#if FASTMASK_DOUBLE
    (void)x, (void)b;
    return a;
#elif defined(__AVX512BW__)
    return (vec)((ivec)a + (ivec)_mm512_madd_epi16((__m512i)x, (__m512i)b));
#elif defined(__AVX2__)
    return (vec)((ivec)a + (ivec)_mm256_madd_epi16((__m256i)x, (__m256i)b));
#elif defined(__SSE2__)
    return (vec)((ivec)a + (ivec)_mm_madd_epi16((__m128i)x, (__m128i)b));
#else
    ivec lower = ((ivec)x << 16 >> 16) * ((ivec)b << 16 >> 16);
    return (vec)((ivec)a + lower + ((ivec)x >> 16) * ((ivec)b >> 16));
#endif
}

/* The numbers that 32-bit integers stand for. */
INLINE vec v_from_integers(vec x) { return __builtin_convertvector((ivec)x, vec); }

/* The integers n of t = n + ROUNDER, as LANES neighbouring 16-bit integers at p. */
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));
INLINE void v_store_shorts(int16_t *p, vec t) {
    shorts n = __builtin_convertvector((ivec)t, shorts);
    memcpy(p, &n, sizeof(n));
}

/* a where the sign bit of x is set, b elsewhere. */
INLINE vec v_where_negative(vec x, vec a, vec b) {
#if defined(__AVX512F__) && FASTMASK_DOUBLE
    return _mm512_mask_blend_pd(_mm512_movepi64_mask((__m512i)x), b, a);
#elif defined(__AVX512F__)
    return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)x), b, a);
#elif defined(__AVX2__)
    return SUFFIX(_mm256_blendv_p)(b, a, x);
#else
    ivec negative = (ivec)x >> (8 * sizeof(bits) - 1);
    return (vec)((negative & (ivec)a) | (~negative & (ivec)b));
#endif
}

/* a < b ? a : b and a > b ? a : b, element by element: b where either is NaN. */
INLINE vec v_min(vec a, vec b) {
#if defined(__AVX512F__)
    return SUFFIX(_mm512_min_p)(a, b);
#elif defined(__AVX2__)
    return SUFFIX(_mm256_min_p)(a, b);
#elif defined(__SSE2__)
    return SUFFIX(_mm_min_p)(a, b);
#else
    ivec less = a < b;
    return (vec)((less & (ivec)a) | (~less & (ivec)b));
#endif
}
INLINE vec v_max(vec a, vec b) {
#if defined(__AVX512F__)
    return SUFFIX(_mm512_max_p)(a, b);
#elif defined(__AVX2__)
    return SUFFIX(_mm256_max_p)(a, b);
#elif defined(__SSE2__)
    return SUFFIX(_mm_max_p)(a, b);
#else
    ivec more = a > b;
    return (vec)((more & (ivec)a) | (~more & (ivec)b));
#endif
}

INLINE vec v_sqrt(vec x) {
#if defined(__AVX512F__)
    return SUFFIX(_mm512_sqrt_p)(x);
#elif defined(__AVX2__)
    return SUFFIX(_mm256_sqrt_p)(x);
#elif defined(__SSE2__)
    return SUFFIX(_mm_sqrt_p)(x);
#elif defined(__aarch64__) && FASTMASK_DOUBLE
    return vsqrtq_f64(x);
#elif defined(__aarch64__)
    return vsqrtq_f32(x);
#endif
}

/* Whether any bit of any of the four is set: minus zero and NaN count as not zero, whatever the float mode. */
INLINE int v_any_bit(vec a, vec b, vec c, vec d) {
    ivec all = (ivec)a | (ivec)b | (ivec)c | (ivec)d;
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)all, (__m512i)all) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)all, (__m256i)all);
#elif defined(__SSE2__)
    return _mm_movemask_epi8(_mm_cmpeq_epi8((__m128i)all, _mm_setzero_si128())) != 0xffff;
#else
    uint64_t words[BYTES / 8], any = 0;
    memcpy(words, &all, BYTES);
    for (int i = 0; i < BYTES / 8; i++)
        any |= words[i];
    return any != 0;
#endif
}

INLINE vec v_negate_abs(vec x) { return (vec)((ivec)x | ((ivec){0} + (bits)(~(uint64_t)0 << (8 * sizeof(bits) - 1)))); }

/* 2^n where t = n + ROUNDER, for n that gives a normal number. */
INLINE vec v_pow2(vec t) { return (vec)(((ivec)t + EXPONENT_BIAS) << MANTISSA_BITS); }

/* x * 2^n for any integral n with |n| <= 2 * EXPONENT_BIAS; rounds once, also into denormals and infinity. */
INLINE vec v_scale(vec x, vec n) {
#if defined(__AVX512F__)
    return SUFFIX(_mm512_scalef_p)(x, n);
#else
    vec half = n * (real)0.5 + ROUNDER;
    return x * v_pow2(half) * v_pow2(n - (half - ROUNDER) + ROUNDER);
#endif
}

/* a / (b + rest) for b in [1, 2^40]; rest, what b lost by rounding, counts where it costs no second division.
 * A 16-lane division keeps its port busy for 16 cycles; the reciprocal to 14 bits, one Newton step and one for the
 * quotient take about 4, and it errs by hardly more than half an ulp. */
INLINE vec v_divide(vec a, vec b, vec rest) {
#if defined(__AVX512F__) && !FASTMASK_DOUBLE
    vec r = _mm512_rcp14_ps(b);
    r = v_fma(v_fma(-b, r, v_set1(1)), r, r);
    vec q = a * r;
    return v_fma(v_fma(-rest, q, v_fma(-b, q, a)), r, q);
#else
    (void)rest;
    return a / b;
#endif
}

/* a0 b0 a1 b1 ... of the lower and of the upper halves of each 16 bytes of two vectors. */
enum { SQUARE = 16 / sizeof(real) };
#if defined(__AVX512F__) && !FASTMASK_DOUBLE
#define LOWER 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define UPPER 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#elif defined(__AVX512F__)
#define LOWER 0, 8, 2, 10, 4, 12, 6, 14
#define UPPER 1, 9, 3, 11, 5, 13, 7, 15
#elif defined(__AVX2__) && !FASTMASK_DOUBLE
#define LOWER 0, 8, 1, 9, 4, 12, 5, 13
#define UPPER 2, 10, 3, 11, 6, 14, 7, 15
#elif defined(__AVX2__)
#define LOWER 0, 4, 2, 6
#define UPPER 1, 5, 3, 7
#elif !FASTMASK_DOUBLE
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#else
#define LOWER 0, 2
#define UPPER 1, 3
#endif
INLINE vec v_interleave_lower(vec a, vec b) { return __builtin_shufflevector(a, b, LOWER); }
INLINE vec v_interleave_upper(vec a, vec b) { return __builtin_shufflevector(a, b, UPPER); }

/* SQUARE numbers at p, behind them as many at p + stride, and so on. */
INLINE vec v_load_squares(const real *p, intptr_t stride) {
#if defined(__AVX512F__)
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps((const float *)p));
    x = _mm512_insertf32x4(x, _mm_loadu_ps((const float *)(p + stride)), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps((const float *)(p + 2 * stride)), 2);
    return (vec)_mm512_insertf32x4(x, _mm_loadu_ps((const float *)(p + 3 * stride)), 3);
#elif defined(__AVX2__)
    __m256 x = _mm256_castps128_ps256(_mm_loadu_ps((const float *)p));
    return (vec)_mm256_insertf128_ps(x, _mm_loadu_ps((const float *)(p + stride)), 1);
#else
    (void)stride;
    return v_load(p);
#endif
}

/* The first n < LANES numbers at p, zeros behind them; nothing past p[n - 1] is touched. */
#if defined(__AVX512F__)
#if FASTMASK_DOUBLE
#define MASK(n) (__mmask8)((1u << n) - 1)
#else
#define MASK(n) (__mmask16)((1u << n) - 1)
#endif
INLINE vec v_load_tail(const real *p, int n) { return SUFFIX(_mm512_maskz_loadu_p)(MASK(n), p); }
INLINE void v_store_tail(real *p, vec x, int n) { SUFFIX(_mm512_mask_storeu_p)(p, MASK(n), x); }
#else
INLINE vec v_load_tail(const real *p, int n) {
    vec x = {0};
    memcpy(&x, p, (size_t)n * sizeof(real));
    return x;
}
INLINE void v_store_tail(real *p, vec x, int n) { memcpy(p, &x, (size_t)n * sizeof(real)); }
#endif

#endif
