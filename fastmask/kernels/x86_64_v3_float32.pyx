# The kernels for x86_64_v3, float32.

include "kernels.pxi"
