# The kernels for baseline, float32.

include "kernels.pxi"
