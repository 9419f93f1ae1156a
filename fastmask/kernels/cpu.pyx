# Which instruction sets this machine has. Compiled for the baseline, so that it runs anywhere.

cdef extern from *:
    """
    #if defined(__x86_64__)
    static int fastmask_level(void) {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")))
            return 1;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl")))
            return 3;
        return 4;
    }
    #else
    static int fastmask_level(void) { return 1; }
    #endif
    """
    int fastmask_level() nogil


def x86_64_level() -> int:
    """4, 3 or 1: the highest x86-64 level of this CPU and operating system that has kernels; 1 on other machines."""
    return fastmask_level()
