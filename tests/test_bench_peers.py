"""The harness of ``bench/peers``: it covers its axes, compares before it times, and renders what was recorded."""

import json
import math
import re
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import fastmask as fm

pytest.importorskip("bench.peers", reason="there is no checkout here")

from bench.peers import data, libraries, report, results, shapes, targets
from bench.peers.conductor import Conductor, Forecast, difference
from bench.peers.shapes import LayerCase, ModelCase, StreamCase

RECORDED = Path(__file__).parent / "bench_peers.jsonl"
SMALL = LayerCase("LSTM", 5, 3, 6, 0.45, "holed")


@pytest.fixture(scope="module")
def records():
    return list(results.read(RECORDED))


@pytest.fixture
def one_thread():
    before = fm.get_num_threads()
    yield
    fm.set_num_threads(before)


def values(case):
    return [(axis, getattr(case, axis)) for axis in shapes.AXES]


def test_selection_covers_every_pair_of_values():
    chosen = shapes.selection()
    covered = {pair for case in chosen for pair in combinations(values(case), 2)}
    for (axis, value), (other, partner) in (
        ((a, v), (b, w))
        for a, b in combinations(shapes.AXES, 2)
        for v in shapes.AXES[a]
        for w in shapes.AXES[b]
        if {a, b} != {"density", "mask"} or (v == 1.0) == (w == "none")
    ):
        assert ((axis, value), (other, partner)) in covered
    assert len(chosen) == len(set(chosen)) <= 70
    assert set(shapes.COMMON) <= set(chosen)


def test_selection_is_part_of_the_grid():
    grid = set(shapes.full_grid())
    assert set(shapes.selection()) <= grid
    assert LayerCase("LSTM", 1024, 512, 1000, 0.45, "right") not in grid
    both = shapes.both_passes(shapes.selection())
    assert {case.kind for case in both} == set(shapes.PASSES)
    assert len(set(both)) == 2 * len(shapes.selection())


@pytest.mark.parametrize("tokens", [40, 200, 333, 640])
def test_lengths(tokens):
    found = data.lengths(32, 20, tokens, np.random.default_rng(0))
    assert found.min() >= 1
    assert found.max() == 20
    assert abs(found.sum() - max(tokens, 32 + 19)) <= 16


@pytest.mark.parametrize("mask", ["right", "left", "holed"])
@pytest.mark.parametrize("batch", [1, 32])
def test_masks(mask, batch):
    case = LayerCase("GRU", 4, batch, 100, 0.2, mask)
    made = data.layer_data(case)
    assert made.mask.any(axis=1).all()
    assert made.mask.mean() == pytest.approx(0.2, abs=0.1 if batch == 1 else 0.02)
    assert not made.x[~made.mask].any()
    rising = np.diff(made.mask.astype(int), axis=1)
    assert {"right": (rising <= 0).all(), "left": (rising >= 0).all(), "holed": (rising > 0).any()}[mask]
    np.testing.assert_array_equal(data.layer_data(case).x, made.x)


def test_outlier_keeps_the_number_of_tokens():
    cases = shapes.padding_cases()
    counts = {np.count_nonzero(data.model_data(case).ids) for case in cases if case.steps <= 1000}
    assert counts == {shapes.ROWS * shapes.ROW_TOKENS}
    ids = data.model_data(cases[3]).ids
    assert np.count_nonzero(ids[0]) == cases[3].steps == 1000


def test_difference():
    right = {"y": np.array([1.0, 2.0])}
    assert difference({"y": np.array([1.0, 2.001])}, right) == ""
    assert "y by" in difference({"y": np.array([1.0, 2.1])}, right)
    assert "y by" in difference({"y": np.array([1.0, np.nan])}, right)
    assert "shape" in difference({"y": np.ones((2, 1))}, right)
    assert "expected y" in difference({"x": right["y"]}, right)


@pytest.mark.parametrize("name", [name for name in libraries.LIBRARIES if not name.startswith(("fastmask", "keras"))])
@pytest.mark.parametrize("kind", shapes.PASSES)
@pytest.mark.parametrize("mask", ["right", "left", "holed", "none"])
@pytest.mark.parametrize("cell", shapes.AXES["cell"])
@pytest.mark.usefixtures("one_thread")
def test_libraries_compute_the_same_layer(name, kind, mask, cell):
    need(name)
    case = replace(SMALL, cell=cell, mask=mask, kind=kind, density=1.0 if mask == "none" else 0.45)
    compare(name, "layer", case)


@pytest.mark.parametrize("name", ["numpy", "pytorch-padded", "pytorch-packed", "onnxruntime"])
@pytest.mark.parametrize("form", ["padded", "list"])
@pytest.mark.parametrize("kind", ["training step", "prediction"])
@pytest.mark.usefixtures("one_thread")
def test_libraries_compute_the_same_model(name, kind, form):
    need(name)
    compare(name, "model", ModelCase(kind, 4, 9, 20, 8, form=form))


@pytest.mark.parametrize("name", ["numpy", "pytorch-padded", "onnxruntime"])
@pytest.mark.usefixtures("one_thread")
def test_libraries_compute_the_same_stream(name):
    need(name)
    compare(name, "stream", StreamCase(6))


def need(name):
    """Skip the test where a library is missing."""
    for module in {"pytorch": ["torch"], "onnxruntime": ["onnx", "onnxruntime"]}.get(name.split("-")[0], []):
        pytest.importorskip(module)


def compare(name, what, case):
    expected = getattr(libraries.start("fastmask", 1), what)(case)
    try:
        run = getattr(libraries.start(name, 1), what)(case)
    except libraries.UnsupportedError:
        assert name == "onnxruntime"
        assert case.kind in ("forward+backward", "training step") or case.mask in ("left", "holed")
        return
    assert difference(run.check(), expected.check()) == ""
    run.call()


def test_conductor_times_libraries_that_agree():
    case = replace(SMALL, kind="forward+backward")
    with Conductor() as conductor:
        found = conductor.measure({name: (name, case) for name in ("fastmask", "numpy")})
        assert not found["reasons"]
        assert all(0 < seconds < 10 for seconds in found["seconds"].values())
        assert found["peak_gflops"] > 0
        other = replace(case, units=6)
        mixed = conductor.measure({"fastmask": ("fastmask", case), "numpy": ("numpy", other)})
    assert mixed["reasons"].keys() == {"numpy"}
    assert mixed["reasons"]["numpy"].startswith("differs")
    assert mixed["seconds"].keys() == {"fastmask"}


def test_conductor_gives_each_participant_a_process():
    case = shapes.ModelCase("training step", 4, 6, 12, 8)
    with Conductor() as conductor:
        found = conductor.measure({form: ("fastmask", replace(case, form=form)) for form in ("padded", "list")})
        assert found["seconds"].keys() == {"padded", "list"}
        assert conductor.workers.keys() == {("padded", 1), ("list", 1)}


def test_conductor_survives_a_library_that_dies():
    with Conductor() as conductor:
        parts = {name: (name, SMALL) for name in ("fastmask", "numpy")}
        conductor.measure(parts)
        conductor.workers["numpy", 1].process.kill()
        conductor.workers["numpy", 1].process.wait()
        assert conductor.measure(parts)["reasons"]["numpy"].startswith("failed")
        assert conductor.measure(parts)["reasons"] == {}


def test_forecast_knows_the_best_rate():
    forecast = Forecast()
    assert forecast.least("numpy", SMALL) == 0
    forecast.learn("numpy", SMALL, 2.0)
    forecast.learn("numpy", SMALL, 3.0)
    assert forecast.least("numpy", replace(SMALL, steps=60)) == pytest.approx(20.0)
    assert forecast.least("fastmask", SMALL) == 0


def test_results_are_kept_for_the_same_machine_only(tmp_path):
    path = tmp_path / "results.jsonl"
    machine = {"cpu": "one"}
    kept = results.Results(path, machine)
    kept.add("layer", "a", seconds={"numpy": 1.0})
    with path.open("a") as file:
        file.write('{"section": "layer", "ke')
    assert "a" in results.Results(path, machine)
    assert "a" not in results.Results(path, {"cpu": "two"})
    results.Results(path, machine).add("layer", "b", seconds={})
    assert set(results.Results(path, machine).records) == {"a", "b"}
    assert "a" not in results.Results(path, machine, fresh=True)


def test_digest_names_a_state():
    assert re.fullmatch("[0-9a-f]{12}", results.digest())
    assert results.digest() == results.digest()


def make_record(seconds, kind="forward", peak=100.0, **case):
    layer = LayerCase("LSTM", 128, 32, 100, 0.5, "right", kind=kind)
    layer = replace(layer, **case)
    fields = {name: getattr(layer, name) for name in (*shapes.AXES, "kind")}
    return {"section": "layer", "case": fields, "shape": layer.shape, "seconds": seconds, "peak_gflops": peak}


def test_speedup_is_beside_the_fastest_peer():
    record = make_record({"fastmask": 1.0, "numpy": 5.0, "keras-jax": 3.0})
    assert targets.fastest_peer(record) == "keras-jax"
    assert targets.speedup(record) == 3.0
    assert targets.speedup(record, ("numpy",)) == 5.0
    assert targets.speedup(make_record({"numpy": 5.0})) is None
    assert targets.speedup(make_record({"fastmask": 5.0})) is None


def test_share_of_peak_counts_valid_tokens():
    operations = 1600 * 2 * 256 * 512
    record = make_record({"fastmask": operations / 50e9})
    assert targets.share_of_peak(record) == pytest.approx(0.5)
    both = make_record({"fastmask": operations / 50e9}, kind="forward+backward", threads=2)
    assert targets.share_of_peak(both) == pytest.approx(0.75)


def test_verdicts():
    fast, slow = make_record({"fastmask": 1.0, "numpy": 8.0}), make_record({"fastmask": 2.0, "numpy": 1.0}, batch=8)
    found = {(verdict.subject, verdict.aim): verdict for verdict in targets.verdicts([fast, slow])}
    never = found["layers, forward", "never slower than the fastest peer"]
    assert not never.reached
    assert "slower in 1 of 2; least 0.50x (LSTM B8" in never.found
    mean = found["layers, forward", "geometric mean 2.5x the fastest peer"]
    assert mean.found == "2.00x"
    assert not mean.reached
    assert found["import", "1.3x of NumPy"].reached is None
    assert targets.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_outlier_verdicts():
    longest = asdict(shapes.padding_cases()[-1])
    timed = {"section": "forms", "case": longest, "seconds": {"padded": 0.06, "list": 0.05}}
    alone = [
        {"section": "padding", "case": longest | {"form": form}, "library": "fastmask", "seconds": 1.0, "bytes": size}
        for form, size in (("padded", 300), ("list", 200))
    ]
    time, memory = targets.outlier_verdicts([timed, *alone])
    assert (time.found, time.reached) == ("1.20x", True)
    assert (memory.found, memory.reached) == ("1.50x", False)
    assert [verdict.reached for verdict in targets.outlier_verdicts([alone[0]])] == [None, None]


def test_report_renders_what_was_recorded(records):
    text = report.render(records)
    missing = [part.split("\n")[0] for part in text.split("\n## ") if "Not measured." in part]
    assert missing == ["Loading"]
    assert "nan" not in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert min(widths) >= 1
    for record in records:
        if record["section"] == "layer" and targets.speedup(record):
            row = next(line for line in text.splitlines() if line.startswith(f"| {record['shape']} | "))
            assert report.milliseconds(record["seconds"]["fastmask"]) in text
            assert len(row.split(" | ")) >= 6
    judged = [line for line in targets_of(text) if line.endswith((" yes |", " **no** |", " - |"))]
    assert len(targets.verdicts(records)) == len(judged)


def targets_of(text):
    return text.split("## Targets")[1].split("\n## ")[0].splitlines()


def test_summary_goes_between_its_marks(records, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(records, tmp_path / "docs", readme)
    report.write(records, tmp_path / "docs", readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n| what |")
    assert text.endswith(f"|\n{report.END}\nafter\n")
    assert "old" not in text
    assert (tmp_path / "docs" / "README.md").read_text().startswith("# fastmask beside its peers")


def test_readme_has_a_place_for_the_summary():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert readme.count(report.BEGIN) == readme.count(report.END) == 1


def test_plots_are_drawn(records, tmp_path):
    pytest.importorskip("matplotlib")
    from bench.peers import plots

    plots.draw(records, tmp_path)
    names = {"layers_forward.png", "layers_forward_backward.png", "padding.png", "tokens.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_recorded_results_are_whole(records):
    sections = {"layer", "threads", "model", "stream", "forms", "padding", "tokens"}
    assert {record["section"] for record in records} == sections
    for record in records:
        for seconds in record.get("seconds", {}).values() if isinstance(record.get("seconds"), dict) else ():
            assert math.isfinite(seconds)
    assert json.loads(RECORDED.read_text().splitlines()[0])["machine"]["cores"] >= 1
