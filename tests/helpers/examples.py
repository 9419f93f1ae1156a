"""How many examples of bad input have passed, in this process and in those that it has run tests in."""

from collections import Counter

PASSED = Counter()


def print_passed(terminalreporter):
    """Print the sum over the tests, and that of each file."""
    if PASSED:
        terminalreporter.section("examples of bad input")
        for module, count in sorted(PASSED.items()):
            terminalreporter.write_line(f"{count:8} {module.rpartition('.')[2]}")
        terminalreporter.write_line(f"{PASSED.total():8} passed")
