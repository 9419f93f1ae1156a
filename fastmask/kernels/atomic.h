/* Numbers that several threads read and write, and ways to wait for them. */
#ifndef FASTMASK_ATOMIC_H
#define FASTMASK_ATOMIC_H

#include <stdint.h>

#if defined(_WIN32)
#include <windows.h>
static inline void fastmask_yield(void) { SwitchToThread(); }
static inline double fastmask_seconds(void) { return 1e-3 * (double)GetTickCount64(); }
#else
#include <sched.h>
#include <time.h>
static inline void fastmask_yield(void) { sched_yield(); }
static inline double fastmask_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
#endif

static inline void fastmask_pause(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static inline int64_t fastmask_load(const int64_t *value) { return __atomic_load_n(value, __ATOMIC_ACQUIRE); }

static inline void fastmask_store(int64_t *value, int64_t n) { __atomic_store_n(value, n, __ATOMIC_RELEASE); }

static inline int64_t fastmask_add(int64_t *value, int64_t n) { return __atomic_add_fetch(value, n, __ATOMIC_ACQ_REL); }

/* Whether the value was n and is n + 1 now. */
static inline int fastmask_claim(int64_t *value, int64_t n) {
    return fastmask_load(value) == n
        && __atomic_compare_exchange_n(value, &n, n + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

#endif
