"""Coverage-guided fuzzing of the operations: atheris chooses what the tests of bad input draw at random.

    python tools/fuzz_ops.py tests/reliability/corpus/ops -max_total_time=3600

needs ``pip install atheris hypothesis`` and the package on the path; further arguments are libFuzzer's. The first
byte of an input chooses the test, the rest its arguments. A call must give the reference's answer or a documented
exception.

    python tools/fuzz_ops.py --seeds FOLDER

writes the inputs to start from.
"""

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastmask"]):
    import fastmask.batch.packing
    import fastmask.ops  # noqa: F401

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from reliability import test_inputs_ops, test_inputs_packing, test_inputs_recurrent  # noqa: E402
from reliability.calls import check_damages, check_layouts, examples  # noqa: E402


def targets():
    """Functions of the bytes that stand for the arguments of one example."""
    found = []
    for make in test_inputs_ops.MAKERS.values():
        for check in (check_damages, check_layouts):
            found.append(target(lambda data, make=make, check=check: check(data, make(test_inputs_ops.Maker(data)))))
    for check in (check_damages, check_layouts) * 4:
        found.append(target(lambda data, check=check: check(data, test_inputs_recurrent.recurrent_call(data))))
    tests = vars(test_inputs_packing)
    for name in ("plans", "lists_of_sequences", "packed_sequences", "embedding_of_packed_ids", "batch_statistics"):
        found.append(tests[f"test_{name}"].hypothesis.fuzz_one_input)
    for name in test_inputs_packing.STEPS:
        found.append(target(lambda data, name=name: test_inputs_packing.check_step(name, data)))
    return found


def target(check):
    """The check of one example drawn from bytes."""

    @examples(1)
    @given(st.data())
    def test(data):
        check(data)

    return test.hypothesis.fuzz_one_input


TARGETS = targets()


def one_input(content):
    """Run one example."""
    if content:
        TARGETS[content[0] % len(TARGETS)](content[1:])


def write_seeds(folder):
    """Random arguments for each test: an input that is too short to draw all from is no example."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    for number in range(len(TARGETS)):
        (folder / f"{number:02}").write_bytes(bytes([number]) + source.randbytes(500))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(sys.argv[2])
        sys.exit()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
