"""The tables: ``docs/benchmarks/README.md``, and a summary for the README between two marks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.peers.libraries import LIBRARIES
from bench.peers.shapes import PASSES
from bench.peers.targets import Record, Verdict, fastest_peer, of_section, share_of_peak, speedup, verdicts

BEGIN, END = "<!-- begin bench.peers -->", "<!-- end bench.peers -->"
TITLES = {name: entry.title for name, entry in LIBRARIES.items()}

METHOD = """\
Each library runs in a process of its own, on as many CPUs as it has threads. Weights and data come from the same
seeds. Outputs, gradients of weights and inputs, and losses are compared with those of fastmask before anything is
timed; a library that differs by more than 0.2 % of the largest value is left out. Then the libraries take turns, a
burst of calls each, in four rounds, and in four more those that take at most twice the time of the fastest. The least
time of all rounds counts. Everything is float32.

- Layers are as wide as their inputs and return their last outputs; gradients are those of weights and inputs. Without
  padding no mask is passed. Lengths are log-normal.
- fastmask is called on padded arrays with a mask, and packs them in every call.
- PyTorch padded takes the output at the last valid step. PyTorch packed packs the padded batch in every call, with
  `enforce_sorted=False`. For left and holed masks the valid steps are moved to the beginning of the rows in every
  call, by an index that is given.
- Keras runs under `tf.function`, under `jax.jit`, and eagerly on torch. Training is `train_on_batch`.
- ONNX Runtime takes `sequence_lens`, and arrays with the time first. It has no gradients and no other masks.
- NumPy is `fastmask.reference`, which runs over the padded batch.
- Adam of PyTorch is the fused one. PyTorch trains two biases where Keras has one, and Keras on TensorFlow steps on each
  occurrence of an id: after a step their losses agree with the others' to 0.1 % only.
- A step of PyTorch's stream is an `LSTMCell`.
"""


def write(records: list[Record], folder: Path, readme: Path) -> None:
    """Write the report, and the summary into the README if it has a place for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(render(records), encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    if BEGIN in text:
        readme.write_text(with_summary(text, summary(records)), encoding="utf-8")


def with_summary(text: str, new: str) -> str:
    """Put a summary between the marks."""
    place = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return place.sub(lambda _: f"{BEGIN}\n{new}\n{END}", text)


def render(records: list[Record]) -> str:
    """The whole report."""
    parts = ["# fastmask beside its peers", machine(records), METHOD, "## Targets", verdict_table(verdicts(records))]
    for kind in PASSES:
        parts += [f"## Layers, {kind}", layer_part(of_section(records, "layer", kind=kind), kind)]
    parts += ["## Model", model_part(of_section(records, "model"))]
    parts += ["## Two threads", thread_part(of_section(records, "threads"))]
    parts += ["## One step at a time", stream_part(of_section(records, "stream"))]
    parts += ["## Loading", loading_part(records)]
    parts += ["## Growth", growth_part(records)]
    parts += ["## Left out", left_out(records)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(records: list[Record]) -> str:
    if not records:
        return "Nothing has been measured."
    found = records[-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"`make bench-peers` writes this page: it runs `python -m bench.peers` in an environment of its own.\n\n"
        f"{found['cpu']}, {found['cores']} cores, {found['isa']}; Python {found['python']}; {versions}; "
        f"digest of fastmask {found['fastmask']}."
    )


def verdict_table(found: list[Verdict]) -> str:
    words = {True: "yes", False: "**no**", None: "-"}
    return table(("what", "aim", "found", "reached"), ([*each[:3], words[each.reached]] for each in found))


def milliseconds(seconds: float | None) -> str:
    """Three significant digits."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio_text(record: Record) -> str:
    ratio, peer = speedup(record), fastest_peer(record)
    return "-" if ratio is None or peer is None else f"{ratio:.2f} ({TITLES[peer]})"


def comparison(records: list[Record], *more: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows: shape, threads, the times of all libraries, how much faster than the fastest peer."""
    names = [name for name in LIBRARIES if any(name in record["seconds"] for record in records)]
    head = ["shape", "threads", *(TITLES[name] for name in names), "faster than the fastest peer", *more]
    rows = [
        [
            record["shape"],
            str(record["case"]["threads"]),
            *(milliseconds(record["seconds"].get(name)) for name in names),
            ratio_text(record),
        ]
        for record in records
    ]
    return head, rows


def layer_part(records: list[Record], kind: str) -> str:
    if not records:
        return "Not measured."
    order = {"LSTM": 0, "GRU": 1, "SimpleRNN": 2}

    def place(record: Record) -> tuple[Any, ...]:
        case = record["case"]
        return order[case["cell"]], case["units"], case["batch"], case["steps"], case["threads"]

    records = sorted(records, key=place)
    head, rows = comparison(records, "of the FMA peak")
    for row, record in zip(rows, records, strict=True):
        share = share_of_peak(record)
        row.append("-" if share is None else f"{share:.0%}")
    picture = f"![Speed beside the fastest peer](layers_{kind.replace('+', '_')}.png)"
    return f"{picture}\n\nMilliseconds.\n\n{table(head, rows)}"


def model_part(records: list[Record]) -> str:
    if not records:
        return "Not measured."
    intro = "`Embedding(20000, 128, mask_zero=True)`, `LSTM(128)`, `Dense(1)`; Adam; ids by Zipf's law. Milliseconds."
    return f"{intro}\n\n{table(*comparison(records))}"


def thread_part(records: list[Record]) -> str:
    rows = []
    for record in sorted(records, key=lambda record: -record["seconds"].get("1", 0.0)):
        one, two = record["seconds"].get("1"), record["seconds"].get("2")
        if one and two:
            what = f"{record['shape']}, {record['case']['kind']}" if "cell" in record["case"] else record["shape"]
            rows.append([what, milliseconds(one), milliseconds(two), f"{one / two:.2f}"])
    if not rows:
        return "Not measured."
    return f"fastmask alone. Milliseconds.\n\n{table(('shape', 'one thread', 'two threads', 'ratio'), rows)}"


def stream_part(records: list[Record]) -> str:
    if not records:
        return "Not measured."
    head, rows = comparison(records)
    return f"A stateful layer at batch 1, called from Python for each step. Milliseconds.\n\n{table(head, rows)}"


def loading_part(records: list[Record]) -> str:
    found = [record for record in records if record.get("title")]
    if not found:
        return "Not measured."
    rows = (
        [
            record["title"],
            f"{1e3 * record['seconds']:.0f} ms",
            f"{record['bytes'] / 2**20:.0f} MiB",
            f"{record['installed'] / 2**20:.0f} MiB",
        ]
        for record in found
    )
    intro = "The import in a fresh process, its peak of memory, and the size on disk with all that is required."
    return f"{intro}\n\n{table(('library', 'import', 'memory', 'installed'), rows)}"


def growth_part(records: list[Record]) -> str:
    intro = (
        "Training steps of the model with 64 units on one thread, each library alone in a fresh process. Memory is the "
        "peak above that of the imported library."
    )
    padding = (
        "1000 rows with 30,000 tokens in all: one row grows to 10,000 steps, and the others give up what it takes, "
        "down to 20. fastmask gets the padded batch, or the list of its rows."
    )
    for record in of_section(records, "forms"):
        times = ", ".join(f"{form} {milliseconds(seconds)}" for form, seconds in record["seconds"].items())
        padding += f" The two in turn at 10,000 steps, in milliseconds: {times}."
    tokens = "32 rows of which 45 % of the steps are valid."
    parts = [intro]
    for section, words in (("padding", padding), ("tokens", tokens)):
        picture = f"![Growth with {section}]({section}.png)"
        parts += [f"### With {section}", words, picture, growth_table(records, section)]
    return "\n\n".join(parts)


def growth_title(record: Record) -> str:
    return TITLES[record["library"]] + (", list of rows" if record["case"]["form"] == "list" else "")


def growth_table(records: list[Record], section: str) -> str:
    found = of_section(records, section)
    steps = sorted({record["case"]["steps"] for record in found})
    cells = {(growth_title(record), record["case"]["steps"]): growth_cell(record) for record in found}
    titles = dict.fromkeys(growth_title(record) for record in found)
    rows = [[title, *(cells.get((title, step), "-") for step in steps)] for title in titles]
    if not rows:
        return "Not measured."
    return table(("milliseconds, MiB", *(f"T {step}" for step in steps)), rows)


def growth_cell(record: Record) -> str:
    if "reason" in record:
        return "-"
    return f"{milliseconds(record['seconds'])}, {record['bytes'] / 2**20:.0f}"


def left_out(records: list[Record]) -> str:
    """How often which library does not do a case, and why."""
    reasons: Counter[tuple[str, str]] = Counter()
    for record in records:
        for name, reason in record.get("reasons", {}).items():
            reasons[TITLES.get(name, name), reason] += 1
        if "reason" in record:
            reasons[growth_title(record), record["reason"]] += 1
    if not reasons:
        return "Nothing."
    rows = [[title, reason, str(count)] for (title, reason), count in sorted(reasons.items())]
    return table(("library", "reason", "cases"), rows)


def summary(records: list[Record]) -> str:
    """For the README: what was aimed at and found, and the model's times."""
    parts = [verdict_table(verdicts(records))]
    single = of_section(records, "model", threads=1)
    if single:
        parts += ["Milliseconds for a batch of the model, one thread:", table(*comparison(single))]
    return "\n\n".join(parts)
