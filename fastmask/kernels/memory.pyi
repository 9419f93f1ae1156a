from typing import Any

import numpy as np
from numpy.typing import NDArray

def aligned_empty(shape: tuple[int, ...] | int, dtype: np.dtype[Any]) -> NDArray[Any]: ...
def aligned_zeros(shape: tuple[int, ...] | int, dtype: np.dtype[Any]) -> NDArray[Any]: ...
