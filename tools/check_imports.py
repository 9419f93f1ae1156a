"""Fail if modules of fastmask import each other in a circle, imports for types and within functions counted.

    python tools/check_imports.py
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

import grimp


def main() -> int:
    graph = grimp.build_graph("fastmask", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        print("a circle of imports: " + " <- ".join(error.args[1]))
        return 1
    print(f"{len(imports)} modules, no circle of imports")
    return 0


if __name__ == "__main__":
    sys.exit(main())
