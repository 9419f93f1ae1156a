# The kernels for baseline, float64.

include "kernels.pxi"
