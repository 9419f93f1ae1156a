# The kernels for x86_64_v3, float64.

include "kernels.pxi"
