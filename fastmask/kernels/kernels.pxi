# All kernels of one instruction set and one dtype.

import numpy as np

from fastmask.kernels.memory import aligned_empty

include "simd/vector.pxi"
include "simd/activation.pxi"
include "train/crossentropy.pxi"
include "gemm/microkernel.pxi"
include "gemm/quantized.pxi"
include "gemm/panels.pxi"
include "gemm/matmul.pxi"
include "gemm/gradient.pxi"
include "tokens.pxi"
include "plan.pxi"
include "atomic.pxi"
include "rnn/slices.pxi"
include "rnn/shard.pxi"
include "rnn/inputs.pxi"
include "rnn/steps.pxi"
include "rnn/simple_rnn.pxi"
include "rnn/lstm.pxi"
include "rnn/gru.pxi"
include "rnn/phases.pxi"
include "rnn/program.pxi"
include "rnn/dropout.pxi"
include "rnn/run.pxi"
include "rnn/passes.pxi"
include "rnn/inference.pxi"
include "previous.pxi"
include "rnn/weight_gradients.pxi"
include "rnn/cell.pxi"
include "chain.pxi"
include "train/optimizer.pxi"
include "simd/peak.pxi"

cdef object DTYPE = np.dtype(np.float64 if IS_DOUBLE else np.float32)

lanes = LANES
tile_rows = ROWS
