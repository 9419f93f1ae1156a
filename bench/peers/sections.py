"""The parts of a run: which cases, with which libraries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bench.peers import shapes
from bench.peers.conductor import Conductor, Outcome, Participants, difference, measure_alone
from bench.peers.libraries import LIBRARIES
from bench.peers.loading import measure_imports
from bench.peers.results import Results, key_of
from bench.peers.shapes import Case

# A step of training with more padding is not tried if the last one leads to expect more memory than this.
MOST_MEMORY = 8 * 2**30


class Run:
    """One run: the cases, where the results go, how they are told."""

    def __init__(self, results: Results, full: bool, only: str, longest: float) -> None:
        self.results, self.full, self.only, self.longest = results, full, only, longest

    def layer(self) -> None:
        cases = shapes.full_grid() if self.full else shapes.selection()
        self.together("layer", by_threads(shapes.both_passes(cases)))

    def model(self) -> None:
        self.together("model", by_threads(shapes.model_cases()))

    def stream(self) -> None:
        self.together("stream", shapes.stream_cases())

    def together(self, section: str, cases: Iterable[Case]) -> None:
        """All libraries on each case."""
        waiting = self.waiting(section, cases)
        with Conductor(self.longest) as conductor:
            threads = 0
            for key, case in waiting:
                if case.threads != threads:
                    conductor.retire()
                    threads = case.threads
                parts: Participants = {name: (name, case) for name in LIBRARIES}
                self.keep(section, key, case, conductor.measure(parts))

    def threads(self) -> None:
        """fastmask with one thread and with two, in turn."""
        layers = shapes.both_passes(dict.fromkeys(replace(case, threads=1) for case in shapes.selection()))
        models = [case for case in shapes.model_cases() if case.threads == 1]
        with Conductor(self.longest) as conductor:
            for key, case in self.waiting("threads", [*layers, *models]):
                parts: Participants = {str(n): ("fastmask", replace(case, threads=n)) for n in (1, 2)}
                self.keep("threads", key, case, conductor.measure(parts))

    def forms(self) -> None:
        """fastmask on a batch with one long row, padded and as the list of its rows, in turn."""
        with Conductor(self.longest) as conductor:
            for key, case in self.waiting("forms", shapes.padding_cases()[-1:]):
                parts: Participants = {form: ("fastmask", replace(case, form=form)) for form in ("padded", "list")}
                self.keep("forms", key, case, conductor.measure(parts))

    def padding(self) -> None:
        self.grow("padding", shapes.padding_cases())

    def tokens(self) -> None:
        self.grow("tokens", shapes.token_cases())

    def grow(self, section: str, cases: list[shapes.ModelCase]) -> None:
        """Each library alone on ever larger cases, for its memory; fastmask on lists of rows, too."""
        forms = [(name, "padded") for name in LIBRARIES if name != "onnxruntime"]
        for library, form in [*forms, ("fastmask", "list")]:
            previous: tuple[int, Outcome] | None = None
            for case in (replace(case, form=form) for case in cases):
                key = key_of(section, case, library)
                if self.only not in key:
                    continue
                if key not in self.results:
                    outcome = self.expect(case, previous) or measure_alone(library, case)
                    outcome = self.compared(section, case, outcome)
                    self.keep(section, key, case, outcome | {"library": library})
                previous = case.batch * case.steps, self.results.records[key]

    def expect(self, case: shapes.ModelCase, previous: tuple[int, Outcome] | None) -> Outcome | None:
        """Why a case is not tried, after what became of the one before."""
        if previous is None or case.form == "list":
            return None
        steps, outcome = previous
        if "reason" in outcome:
            return {"reason": outcome["reason"]}
        factor = case.batch * case.steps / steps
        # Where memory or time does not follow the padding, the padding costs nothing yet.
        if outcome["bytes"] > 2**28 and outcome["bytes"] * factor > MOST_MEMORY:
            return {"reason": f"needs more than {MOST_MEMORY / 2**30:.0f} GiB"}
        if outcome["seconds"] > 0.5 and outcome["seconds"] * factor > self.longest:
            return {"reason": f"takes more than {self.longest:.0f} s"}
        return None

    def compared(self, section: str, case: shapes.ModelCase, outcome: Outcome) -> Outcome:
        """The result, or a reason to leave it out if the losses are not those of fastmask on the padded batch."""
        first = self.results.records.get(key_of(section, replace(case, form="padded"), "fastmask"))
        if "reason" in outcome or first is None:
            return outcome
        reason = difference(*({"losses": np.array(each["losses"])} for each in (outcome, first)))
        return {"reason": f"differs: {reason}"} if reason else outcome

    def loading(self) -> None:
        if "loading" not in self.results:
            for title, values in measure_imports().items():
                print("loading", title, f"{values['seconds']:.3f} s", flush=True)
                self.results.add("loading", key_of("loading", title), title=title, **values)
            self.results.add("loading", "loading", title="")

    def waiting(self, section: str, cases: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Keys and cases that have no result yet."""
        for case in cases:
            key = key_of(section, case)
            if key not in self.results and self.only in key:
                yield key, case

    def keep(self, section: str, key: str, case: Case, outcome: Outcome) -> None:
        """Write a result down and say it."""
        self.results.add(section, key, case=asdict(case), shape=case.shape, **outcome)
        print(section, case.shape, case.kind, f"{case.threads} thread(s)", told(outcome), flush=True)


SECTIONS = ("layer", "threads", "model", "stream", "loading", "forms", "padding", "tokens")


def by_threads(cases: Iterable[Any]) -> list[Any]:
    """Cases with one thread before those with two, as the processes are made anew in between."""
    return sorted(cases, key=lambda case: case.threads)


def told(outcome: Outcome) -> str:
    """One line about a result."""
    if "reason" in outcome:
        return f"{outcome['library']}: {outcome['reason']}"
    if "library" in outcome:
        return f"{outcome['library']}: {1e3 * outcome['seconds']:.2f} ms, {outcome['bytes'] / 2**20:.0f} MiB"
    times = ", ".join(f"{name} {1e3 * seconds:.3f}" for name, seconds in outcome["seconds"].items())
    bad = [f"{name} {why}" for name, why in outcome["reasons"].items() if why.startswith(("failed", "differs"))]
    return "; ".join([f"{times} ms", *bad])
