"""What fastmask is meant to reach beside its peers, and what it reaches: all are ratios within one run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.peers.libraries import LIBRARIES
from bench.peers.shapes import GATES

Record = dict[str, Any]
PASS_TARGETS = {"forward": 2.5, "forward+backward": 4.0}
PEAK_TARGETS = {"forward": 0.78, "forward+backward": 0.75}


class Verdict(NamedTuple):
    """What was aimed at, the aim and the result in words, and whether it is reached; None: it was not measured."""

    subject: str
    aim: str
    found: str
    reached: bool | None


def of_section(records: Iterable[Record], section: str, **case: Any) -> list[Record]:
    """The records of a section with such values in their case."""
    found = [record for record in records if record["section"] == section]
    return [record for record in found if all(record["case"][name] == value for name, value in case.items())]


def fastest_peer(record: Record, names: Iterable[str] = LIBRARIES) -> str | None:
    """Which library but fastmask takes the least time, of those that do the case."""
    seconds = record["seconds"]
    return min((name for name in names if name in seconds and name != "fastmask"), key=seconds.get, default=None)


def speedup(record: Record, names: Iterable[str] = LIBRARIES) -> float | None:
    """The time of the fastest of the peers over that of fastmask."""
    peer = fastest_peer(record, names)
    if peer is None or "fastmask" not in record["seconds"]:
        return None
    return float(record["seconds"][peer] / record["seconds"]["fastmask"])


def speedups(records: Iterable[Record], names: Iterable[str] = LIBRARIES) -> dict[str, float]:
    """By shape and threads."""
    found = {f"{record['shape']}, {record['case']['threads']} thr.": speedup(record, names) for record in records}
    return {shape: ratio for shape, ratio in found.items() if ratio is not None}


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def share_of_peak(record: Record) -> float | None:
    """Operations over valid tokens per second, over the peak of fused multiply-adds on all threads of the run."""
    case, peak = record["case"], record["peak_gflops"]
    if not peak or "fastmask" not in record["seconds"]:
        return None
    tokens = case["batch"] * case["steps"] * case["density"]
    operations = 2 * tokens * 2 * case["units"] * GATES[case["cell"]] * case["units"]
    passes = 1 if case["kind"] == "forward" else 3
    return float(passes * operations / record["seconds"]["fastmask"] / peak / case["threads"] / 1e9)


def verdicts(records: list[Record]) -> list[Verdict]:
    """All targets, in the order of the report."""
    found = []
    for kind, aim in PASS_TARGETS.items():
        ratios = speedups(of_section(records, "layer", kind=kind))
        found += [never_slower(f"layers, {kind}", ratios), on_average(f"layers, {kind}", ratios, aim)]
    found.append(batch_one(records))
    found += [peak_verdict(records, kind, aim) for kind, aim in PEAK_TARGETS.items()]
    found += model_verdicts(records)
    found += thread_verdicts(records)
    found += [stream_verdict(records), *outlier_verdicts(records), import_verdict(records)]
    return found


def missing(subject: str, aim: str) -> Verdict:
    return Verdict(subject, aim, "not measured", None)


def never_slower(subject: str, ratios: dict[str, float]) -> Verdict:
    aim = "never slower than the fastest peer"
    if not ratios:
        return missing(subject, aim)
    worst = min(ratios, key=ratios.__getitem__)
    slower = sum(ratio < 1 for ratio in ratios.values())
    found = f"slower in {slower} of {len(ratios)}; least {ratios[worst]:.2f}x ({worst})"
    return Verdict(subject, aim, found, slower == 0)


def on_average(subject: str, ratios: dict[str, float], aim: float) -> Verdict:
    words = f"geometric mean {aim}x the fastest peer"
    if not ratios:
        return missing(subject, words)
    mean = geometric_mean(ratios.values())
    return Verdict(subject, words, f"{mean:.2f}x", mean >= aim)


def at_least(subject: str, peers: str, ratios: dict[str, float], aim: float) -> Verdict:
    """Every ratio has to reach the aim."""
    words = f"{aim}x {peers}"
    if not ratios:
        return missing(subject, words)
    least, most = min(ratios.values()), max(ratios.values())
    return Verdict(subject, words, f"{least:.2f}x to {most:.2f}x", least >= aim)


def batch_one(records: list[Record]) -> Verdict:
    alone = of_section(records, "layer", kind="forward", batch=1, mask="none", cell="LSTM")
    wide = [record for record in alone if 128 <= record["case"]["units"] <= 512]
    return at_least("one whole sequence, LSTM, H 128 to 512, forward", "the fastest peer", speedups(wide), 1.5)


def peak_verdict(records: list[Record], kind: str, aim: float) -> Verdict:
    subject = f"share of one core's FMA peak, {kind}, H from 128, B from 32"
    cases = of_section(records, "layer", kind=kind, threads=1)
    large = [record for record in cases if record["case"]["units"] >= 128 and record["case"]["batch"] >= 32]
    shares = [share for share in map(share_of_peak, large) if share is not None]
    if not shares:
        return missing(subject, f"{aim:.0%}")
    return Verdict(subject, f"{aim:.0%}", f"{min(shares):.0%} to {max(shares):.0%}", min(shares) >= aim)


def model_verdicts(records: list[Record]) -> list[Verdict]:
    steps = of_section(records, "model", kind="training step")
    predictions = of_section(records, "model", kind="prediction")
    pytorch = speedups(steps, ("pytorch-padded", "pytorch-packed"))
    return [
        at_least("model, training step", "the faster of PyTorch's variants", pytorch, 3.0),
        at_least("model, training step", "Keras on TensorFlow", speedups(steps, ("keras-tensorflow",)), 5.0),
        at_least("model, prediction", "the fastest peer", speedups(predictions), 4.0),
    ]


def thread_verdicts(records: list[Record]) -> list[Verdict]:
    """Two threads beside one. Work is long from 2 ms on, with one thread."""
    seconds = [record["seconds"] for record in of_section(records, "threads")]
    both = [(each["1"], each["2"]) for each in seconds if len(each) == 2]
    subjects = "two threads, from 2 ms of work on", "two threads, everything"
    aims = "1.8x one thread", "never slower than one thread"
    if not both:
        return [missing(subject, aim) for subject, aim in zip(subjects, aims, strict=True)]
    ratios = [one / two for one, two in both]
    long = [one / two for one, two in both if one >= 2e-3]
    # Two runs of the same code differ by this much.
    slower = sum(ratio < 0.97 for ratio in ratios)
    found = [missing(subjects[0], aims[0])]
    if long:
        words = f"{min(long):.2f}x to {max(long):.2f}x, geometric mean {geometric_mean(long):.2f}x"
        found = [Verdict(subjects[0], aims[0], words, min(long) >= 1.8)]
    words = f"slower by more than 3 % in {slower} of {len(ratios)}; least {min(ratios):.2f}x"
    return [*found, Verdict(subjects[1], aims[1], words, slower == 0)]


def stream_verdict(records: list[Record]) -> Verdict:
    subject, aim = "one step of a stateful LSTM through Python, H 128", "10 us"
    cases = of_section(records, "stream", units=128)
    if not cases or "fastmask" not in cases[0]["seconds"]:
        return missing(subject, aim)
    microseconds = 1e6 * cases[0]["seconds"]["fastmask"]
    return Verdict(subject, aim, f"{microseconds:.1f} us", microseconds <= 10)


def outlier_verdicts(records: list[Record]) -> list[Verdict]:
    """The padded batch with the longest row beside the list of its rows: timed in turn, memory of each alone."""
    timed = of_section(records, "forms")
    padding = of_section(records, "padding", steps=10_000)
    alone = [record for record in padding if record["library"] == "fastmask"]
    found = {
        "time": timed[0]["seconds"] if timed else {},
        "memory": {record["case"]["form"]: record["bytes"] for record in alone if "bytes" in record},
    }
    verdicts = []
    for unit, forms in found.items():
        subject = f"one row of 10,000 steps beside 999 of 20, {unit}"
        aim = "1.3x of the same rows without padding"
        if {"padded", "list"} <= forms.keys():
            ratio = forms["padded"] / forms["list"]
            verdicts.append(Verdict(subject, aim, f"{ratio:.2f}x", ratio <= 1.3))
        else:
            verdicts.append(missing(subject, aim))
    return verdicts


def import_verdict(records: list[Record]) -> Verdict:
    subject, aim = "import", "1.3x of NumPy"
    seconds = {record["title"]: record["seconds"] for record in records if record.get("title")}
    if not {"fastmask", "NumPy"} <= seconds.keys():
        return missing(subject, aim)
    ratio = seconds["fastmask"] / seconds["NumPy"]
    return Verdict(subject, aim, f"{ratio:.2f}x", ratio <= 1.3)
