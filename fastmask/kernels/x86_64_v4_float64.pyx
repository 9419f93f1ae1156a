# The kernels for x86_64_v4, float64.

include "kernels.pxi"
