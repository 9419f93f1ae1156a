"""Time layers with this state of the code and with another one, call by call in turn.

    python bench/against.py REVISION [--threads 1] [--seconds 3] [--case CELL,UNITS,BATCH,STEPS,DENSITY,MASK ...]

The other state is compiled in build/against. Each has a process of its own; with one thread both run on the same CPU.
Printed are the least time and the lower quartile, and how much faster this state is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 6
CASES = [
    "LSTM,128,32,100,0.45,right",
    "LSTM,128,1,100,1,none",
    "LSTM,150,8,100,0.45,holed",
    "GRU,32,512,30,0.2,left",
    "GRU,128,32,100,0.45,right",
    "SimpleRNN,512,32,30,0.2,right",
]


def checkout(revision: str) -> Path:
    """Compile another state of the code in a folder of its own."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", revision]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    folder = ROOT / "build" / "against" / name
    if not (folder / ".made").exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", name], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "setuptools>=77", "cython>=3.3,<3.4"]
        subprocess.run(pip, check=True)
        build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(build, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (folder / ".made").touch()
    return folder


class Worker:
    """A process that times layers of one state of the code."""

    def __init__(self, folder: Path, threads: int) -> None:
        if threads == 1 and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        command = [sys.executable, __file__, "--serve", str(folder), "--threads", str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        self._questions, self._answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def ask(self, **question: Any) -> Any:
        print(json.dumps(question), file=self._questions, flush=True)
        return json.loads(self._answers.readline())


def serve(folder: str, threads: int) -> None:
    sys.path[0] = folder
    import fastmask
    from bench.peers.libraries.fastmask import start
    from bench.peers.shapes import LayerCase

    if not Path(fastmask.__file__).is_relative_to(folder):
        raise RuntimeError(f"fastmask is that of {fastmask.__file__}")
    library = start(threads, "")
    for line in sys.stdin:
        question = json.loads(line)
        if "case" in question:
            cell, units, batch, steps, density, mask = question["case"].split(",")
            shape = int(units), int(batch), int(steps), float(density)
            call = library.layer(LayerCase(cell, *shape, mask, threads, question["kind"])).call
            call()
            print(json.dumps(None), flush=True)
            continue
        times, end = [], time.perf_counter() + question["seconds"]
        while not times or time.perf_counter() < end:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        print(json.dumps(times), flush=True)


def compare(workers: list[Worker], case: str, kind: str, seconds: float) -> str:
    for worker in workers:
        worker.ask(case=case, kind=kind)
    times: list[list[float]] = [[] for _ in workers]
    for n in range(ROUNDS):
        for k in (0, 1) if n % 2 else (1, 0):
            times[k] += workers[k].ask(seconds=seconds / ROUNDS)
    least = [min(each) for each in times]
    quartile = [sorted(each)[len(each) // 4] for each in times]
    columns = [f"{1e3 * a:9.3f} /{1e3 * b:9.3f} ms" for a, b in zip(least, quartile, strict=True)]
    return f"{case:32}{kind:18}{'   '.join(columns)}   {least[1] / least[0]:.3f}x {quartile[1] / quartile[0]:.3f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", nargs="?", default="HEAD", help="the other state of the code; HEAD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case, pass and state; 3")
    parser.add_argument("--case", nargs="+", default=CASES, help="CELL,UNITS,BATCH,STEPS,DENSITY,MASK")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.threads)
        return
    workers = [Worker(folder, arguments.threads) for folder in (ROOT, checkout(arguments.revision))]
    for kind in ("forward", "forward+backward"):
        for case in arguments.case:
            print(compare(workers, case, kind, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
