"""The plots of the report, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.peers.report import growth_title
from bench.peers.shapes import AXES, PASSES
from bench.peers.targets import PASS_TARGETS, Record, geometric_mean, of_section, speedup

COLORS = {
    "fastmask": "#d62728",
    "fastmask, list of rows": "#ff9896",
    "PyTorch padded": "#1f77b4",
    "PyTorch packed": "#6baed6",
    "Keras TensorFlow": "#ff7f0e",
    "Keras JAX": "#2ca02c",
    "Keras torch": "#9467bd",
    "NumPy": "#7f7f7f",
}
CELL_COLORS = {"LSTM": "#d62728", "GRU": "#1f77b4", "SimpleRNN": "#2ca02c"}
MARKERS = {"right": ">", "left": "<", "holed": "o", "none": "s"}


def draw(records: list[Record], folder: Path) -> None:
    """Write a PNG for each pass of the layers, and for each way of growing, that has results."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
    )
    for kind in PASSES:
        found = [record for record in of_section(records, "layer", kind=kind) if speedup(record) is not None]
        if found:
            save(draw_speedups(found, kind), folder / f"layers_{kind.replace('+', '_')}.png")
    for section, axis in (("padding", "length of the longest row"), ("tokens", "tokens")):
        found = [record for record in of_section(records, section) if "seconds" in record]
        if found:
            save(draw_growth(found, section, axis), folder / f"{section}.png")


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_speedups(records: list[Record], kind: str) -> Any:
    """One dot a case: how many times the time of fastmask the fastest peer takes, by width, batch and cell."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    ratios = [speedup(record) or 1.0 for record in records]
    for panel, axis in zip(panels, ("units", "batch"), strict=True):
        places = {value: place for place, value in enumerate(AXES[axis])}
        for record, ratio in zip(records, ratios, strict=True):
            case = record["case"]
            shift = 0.2 * (list(CELL_COLORS).index(case["cell"]) - 1)
            x, color = places[case[axis]] + shift, CELL_COLORS[case["cell"]]
            panel.plot(x, ratio, MARKERS[case["mask"]], color=color, alpha=0.75, markersize=5)
        panel.axhline(1, color="black", linewidth=1)
        panel.axhline(PASS_TARGETS[kind], color="black", linewidth=1, linestyle=":")
        panel.set_xticks(range(len(places)), [str(value) for value in places])
        panel.set_xlim(-0.5, len(places) - 0.5)
        panel.set_xlabel("hidden units" if axis == "units" else "batch")
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("time of the fastest peer / fastmask")
    handles = [panels[0].plot([], [], "o", color=color, label=cell)[0] for cell, color in CELL_COLORS.items()]
    handles += [panels[0].plot([], [], mark, color="gray", label=mask)[0] for mask, mark in MARKERS.items()]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.suptitle(f"Layers, {kind}: geometric mean {geometric_mean(ratios):.2f}, aim {PASS_TARGETS[kind]} (dotted)")
    return figure


def draw_growth(records: list[Record], section: str, label: str) -> Any:
    """Time and memory of each library against the padding or the tokens."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    column = "steps" if section == "padding" else "tokens"
    lines: dict[str, list[Record]] = {}
    for record in records:
        lines.setdefault(growth_title(record), []).append(record)
    for panel, name, scale, title in zip(
        panels, ("seconds", "bytes"), (1e3, 2**-20), ("milliseconds per training step", "MiB at the peak"), strict=True
    ):
        for library, found in lines.items():
            found = sorted(found, key=lambda record: record["case"]["steps"])
            x = [record["case"][column] for record in found]
            y = [scale * record[name] for record in found]
            ours = library.startswith("fastmask")
            panel.plot(x, y, "o-", color=COLORS[library], label=library, linewidth=2.2 if ours else 1.2, markersize=4)
        panel.set(xscale="log", yscale="log", xlabel=label, title=title)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
