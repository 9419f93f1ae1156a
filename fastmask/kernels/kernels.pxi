# All kernels of one instruction set and one dtype.

include "vector.pxi"
include "activation.pxi"
include "crossentropy.pxi"
include "tile.pxi"
include "matmul.pxi"
include "gradient.pxi"
include "tokens.pxi"
include "slices.pxi"
include "shard.pxi"
include "inputs.pxi"
include "recurrence.pxi"
include "previous.pxi"
include "recurrence_gradient.pxi"
include "simple_rnn.pxi"
include "lstm.pxi"
include "gru.pxi"
include "gru_gradient.pxi"
include "cell.pxi"
include "optimizer.pxi"
include "peak.pxi"

lanes = LANES
tile_rows = ROWS
