"""The process of one library: ``python -m bench.peers.worker NAME THREADS FILE_DESCRIPTOR``, started by the conductor.

It answers the requests of `messages` one by one, and sleeps in between.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.peers import messages
from bench.peers.shapes import LayerCase, ModelCase

# Thread pools that are sized when a library is imported; GNU's and Intel's OpenMP, OpenBLAS.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1", "JAX_PLATFORMS": "cpu", "KMP_BLOCKTIME": "0"}
    return os.environ | quiet | dict.fromkeys(THREAD_VARIABLES, str(threads))


def pin(threads: int) -> None:
    """Keep the process on as many CPUs as it has threads, the last ones that it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


class Worker:
    def __init__(self, name: str, threads: int) -> None:
        from bench.peers import libraries

        self.library = libraries.start(name, threads)
        self.unsupported = libraries.UnsupportedError
        self.run: Any = None

    def answer(self, request: Any) -> Any:
        match request:
            case messages.Prepare(case):
                return self.prepare(case)
            case messages.Time(calls):
                return [self.seconds() for _ in range(calls)]
            case messages.Peak():
                from fastmask import kernels

                return kernels.peak_gflops(tries=2)
            case messages.Memory():
                return memory_use()
        raise TypeError(f"request must be one of messages, got {request!r}")

    def prepare(self, case: Any) -> messages.Prepared:
        self.run = None
        gc.collect()
        if isinstance(case, LayerCase):
            self.run = self.library.layer(case)
        elif isinstance(case, ModelCase):
            self.run = self.library.model(case)
        else:
            self.run = self.library.stream(case)
        arrays = self.run.check()
        return messages.Prepared(arrays, self.seconds())

    def seconds(self) -> float:
        start = perf_counter()
        self.run.call()
        return perf_counter() - start


def memory_use() -> messages.MemoryUse:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return messages.MemoryUse(*(1024 * int(fields[name][0]) for name in ("VmRSS", "VmHWM")))


def serve(connection: Connection, worker: Worker) -> None:
    """Answer until the conductor closes its end."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            connection.send(worker.answer(request))
        except worker.unsupported as reason:
            connection.send(messages.Failed(str(reason), True))
        except Exception as error:
            traceback.print_exc()
            connection.send(messages.Failed(f"{type(error).__name__}: {error}".splitlines()[0][:200], False))


def main() -> None:
    name, threads, descriptor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pin(threads)
    connection = Connection(descriptor)
    worker = Worker(name, threads)
    connection.send("ready")
    serve(connection, worker)


if __name__ == "__main__":
    main()
