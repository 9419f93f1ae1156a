"""Builds the compiled kernels: one module per instruction set and dtype, all from the same text."""

import os
import platform
import sys
import sysconfig
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = "fastmask/kernels"
abi3 = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
x86_64 = platform.machine().lower() in ("x86_64", "amd64")
jobs = os.cpu_count() or 1

# Contraction is off because fused multiply-adds are written out: inlined copies of one formula must give
# the same bits. GCC's induction-variable pass spills one address register per row of a tile. Its pattern pass
# turns copies of a tile's pointers into wider moves, which cannot be forwarded from the stores just before them:
# each tile then waits until all results of the one before have left the store buffer (100 of 1900 cycles).
# A tile of 24 accumulators is unrolled whole.
FLAGS = [
    "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-fno-tree-vectorize", "-fno-ivopts", "-fno-tree-loop-distribute-patterns",
    "--param=max-completely-peel-times=32", "--param=max-completely-peeled-insns=600",
    "-Wno-unknown-warning-option", "-Wno-array-bounds",
]
INSTRUCTION_SETS = {"baseline": []}
if x86_64:
    INSTRUCTION_SETS["x86_64_v3"] = ["-march=x86-64-v3"]
    INSTRUCTION_SETS["x86_64_v4"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]


def extension(name, flags, macros):
    return Extension(
        f"fastmask.kernels.{name}",
        [f"{KERNELS}/{name}.pyx"],
        depends=["setup.py", *glob(f"{KERNELS}/**/*.pxi", recursive=True), *glob(f"{KERNELS}/**/*.h", recursive=True)],
        include_dirs=[KERNELS],
        define_macros=macros + ([("Py_LIMITED_API", "0x030B0000")] if abi3 else []),
        extra_compile_args=FLAGS + flags,
        py_limited_api=abi3,
    )


extensions = [extension(name, [], []) for name in ("packing", "cpu", "memory", "waiting")]
for isa, flags in INSTRUCTION_SETS.items():
    for dtype, is_double in (("float32", "0"), ("float64", "1")):
        extensions.append(extension(f"{isa}_{dtype}", flags, [("FASTMASK_DOUBLE", is_double)]))

# Cython's worker processes import this file again where Python does not fork.
if __name__ == "__main__":
    setup(
        ext_modules=cythonize(
            extensions,
            nthreads=jobs,
            compiler_directives={
                "language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True,
                "initializedcheck": False, "freethreading_compatible": True, "embedsignature": True,
                "autotestdict": False,
            },
        ),
        options={"build_ext": {"parallel": jobs}} | ({"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {}),
    )
