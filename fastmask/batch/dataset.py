"""Batches that are made one by one, ahead of their use, by worker threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

from fastmask.random import global_generator

T = TypeVar("T")
Result = TypeVar("Result")


class PyDataset:
    """Base of datasets that make a batch when asked for it, such as by reading a file.

    A subclass overrides `__getitem__` and `__len__`. `fit`, `evaluate` and `predict` take it as
    `x`: worker threads make the next batches while the model computes, in order, and an error in
    one of them is raised where its batch would have come. `fit` shuffles the order of the batches
    unless ``shuffle=False``.

    Parameters
    ----------
    workers : int, default 1
        Number of threads; 0 makes each batch when it is needed.
    use_multiprocessing : bool, default False
        Accepted for Keras's sake; workers are threads.
    max_queue_size : int, default 10
        Number of batches made ahead.

    Raises
    ------
    ValueError
        If `workers` is negative or `max_queue_size` is not positive.
    """

    workers = 1
    max_queue_size = 10

    def __init__(
        self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers: expected a number of at least 0, got {workers}")
        if max_queue_size < 1:
            raise ValueError(f"max_queue_size: expected a number of at least 1, got {max_queue_size}")
        self.workers = workers
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = max_queue_size

    def __getitem__(self, index: int) -> Any:
        """Return batch number `index`: (x, y) or (x, y, sample_weight), or x alone."""
        raise NotImplementedError(f"{type(self).__name__} must override __getitem__")

    def __len__(self) -> int:
        """Return the number of batches."""
        raise NotImplementedError(f"{type(self).__name__} must override __len__")

    @property
    def num_batches(self) -> int | None:
        """Number of batches; a subclass that has no end returns None."""
        return len(self)

    def on_epoch_begin(self) -> None:
        """Be told that a pass over the batches begins."""

    def on_epoch_end(self) -> None:
        """Be told that all batches have been used."""

    def batches(self, shuffle: bool = False) -> Iterator[Any]:
        """Yield all batches once, read ahead; closing the iterator stops the workers.

        Parameters
        ----------
        shuffle : bool, default False
            Whether they come in a new order, drawn from the seeded generator of the package, if there is an end.
        """
        number = self.num_batches
        order: Iterable[int] = count() if number is None else range(number)
        if shuffle and number is not None:
            order = global_generator().permutation(number).tolist()
        self.on_epoch_begin()
        yield from read_ahead(self.__getitem__, order, self.workers, self.max_queue_size)
        self.on_epoch_end()

    def __iter__(self) -> Iterator[Any]:
        """Yield all batches once, in their order."""
        return self.batches()


def read_ahead(
    function: Callable[[T], Result], arguments: Iterable[T], workers: int = 1, size: int = 10
) -> Iterator[Result]:
    """Yield the results of a function in the order of its arguments, computed ahead by threads.

    Parameters
    ----------
    function : callable
    arguments : iterable
        One for each call; taken `size` ahead of the results.
    workers : int, default 1
        Number of threads; 0 calls the function when its result is needed.
    size : int, default 10
        Number of results that may wait.

    Notes
    -----
    What the function raises is raised in place of its result, and ends the iteration. Threads
    end with the iteration, also when it is closed early.
    """
    if not workers:
        yield from map(function, arguments)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="fastmask-data") as pool:
        try:
            for argument in arguments:
                pending.append(pool.submit(function, argument))
                if len(pending) > size:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
