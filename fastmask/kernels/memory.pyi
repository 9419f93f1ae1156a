from collections import deque
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Lease:
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def __init__(
        self,
        size: int,
        block: tuple[Any, int],
        free: dict[int, deque[tuple[Any, int]]],
        large: int,
        limit: int,
        shape: tuple[int, ...],
        typestr: str,
    ) -> None: ...
