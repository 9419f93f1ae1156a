# All kernels of one instruction set and one dtype.

import numpy as np

from fastmask.kernels.memory import aligned_empty

include "vector.pxi"
include "activation.pxi"
include "crossentropy.pxi"
include "microkernel.pxi"
include "panels.pxi"
include "matmul.pxi"
include "gradient.pxi"
include "tokens.pxi"
include "slices.pxi"
include "shard.pxi"
include "inputs.pxi"
include "steps.pxi"
include "simple_rnn.pxi"
include "lstm.pxi"
include "gru.pxi"
include "phases.pxi"
include "program.pxi"
include "dropout.pxi"
include "run.pxi"
include "passes.pxi"
include "previous.pxi"
include "weight_gradients.pxi"
include "cell.pxi"
include "optimizer.pxi"
include "peak.pxi"

cdef object DTYPE = np.dtype(np.float64 if IS_DOUBLE else np.float32)

lanes = LANES
tile_rows = ROWS
