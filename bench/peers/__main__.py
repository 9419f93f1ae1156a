"""Run the harness: measure what is missing, then write the tables and plots."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.peers import plots, report
from bench.peers.results import Results, describe_machine
from bench.peers.sections import SECTIONS, Run

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    arguments = parse()
    start = time.monotonic()
    results = Results(arguments.results, describe_machine(), arguments.fresh)
    run = Run(results, arguments.full, arguments.only, arguments.longest)
    for section in [] if arguments.report else arguments.section:
        getattr(run, section)()
        print(f"==== {section} done after {time.monotonic() - start:.0f} s", flush=True)
    records = list(results.records.values())
    report.write(records, arguments.folder, arguments.readme)
    plots.draw(records, arguments.folder)
    print(f"wrote {arguments.folder}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=SECTIONS, help="parts of the run; all")
    parser.add_argument("--full", action="store_true", help="all layer cases, not the selection; takes days")
    parser.add_argument("--only", default="", help="only cases whose key contains this text, such as '\"units\": 128'")
    parser.add_argument("--longest", type=float, default=20.0, help="leave out calls that would take more seconds")
    parser.add_argument("--fresh", action="store_true", help="forget all results; otherwise only missing ones are run")
    parser.add_argument("--report", action="store_true", help="measure nothing, write tables and plots again")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "peers" / "results.jsonl")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "benchmarks", help="where the report goes")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with a place for the summary")
    return parser.parse_args()


if __name__ == "__main__":
    main()
