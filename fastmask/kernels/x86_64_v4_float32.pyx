# The kernels for x86_64_v4, float32.

include "kernels.pxi"
