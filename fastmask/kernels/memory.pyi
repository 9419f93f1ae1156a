from collections import deque
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Lease:
    def __init__(
        self,
        needed: int,
        size: int,
        block: tuple[Any, int],
        free: dict[int, deque[tuple[Any, int]]],
        large: int,
        limit: int,
    ) -> None: ...
