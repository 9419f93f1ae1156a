#!/usr/bin/env bash
# Run tests on NEON kernels without an ARM machine: cross-compile, and run Debian's Python for arm64 under qemu.
#
#     tools/check_aarch64.sh FOLDER [pytest arguments]
#
# FOLDER keeps what was downloaded and compiled (about 600 MB). Needs root for debootstrap, and from Debian
# debootstrap, qemu-user-static and gcc-aarch64-linux-gnu; PYTHON is a Python with Cython and pip.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
PYTHON=${PYTHON:-$here/build/venv/bin/python}
python=(qemu-aarch64-static -L "$folder/root"
    -E "PYTHONPATH=$folder/src:$folder/src/tests:$folder/site" "$folder/root/usr/bin/python3.11")

if ! test -e "$folder/root/usr/bin/python3.11"; then
    # The packages are unpacked, not set up: qemu runs nothing but Python.
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,python3-dev bookworm "$folder/root"
    for package in "$folder"/root/var/cache/apt/archives/*.deb; do
        dpkg -x "$package" "$folder/root"
    done
fi
if ! test -e "$folder/site/numpy"; then
    "$PYTHON" -m pip install --quiet --target "$folder/site" --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        numpy tqdm pytest hypothesis h5py
fi

mkdir -p "$folder/src"
tar -C "$here" --exclude='*.so' --exclude='*.c' --exclude='*x86_64*' --exclude=__pycache__ \
    -cf - fastmask tests docs examples pyproject.toml README.md | tar -C "$folder/src" -xf -
cd "$folder/src/fastmask/kernels"
for module in cpu memory packing waiting baseline_float32 baseline_float64; do
    if ! test -e "$module.abi3.so" || find . -name '*.p[yx][xi]' -newer "$module.abi3.so" | grep -q .; then
        "$PYTHON" -m cython -3 --module-name "fastmask.kernels.$module" \
            -X boundscheck=False -X wraparound=False -X cdivision=True -X initializedcheck=False "$module.pyx"
        aarch64-linux-gnu-gcc -shared -fPIC -O3 -fvisibility=hidden -ffp-contract=off -fno-math-errno \
            -fno-trapping-math -fno-tree-vectorize -fno-ivopts -Wno-array-bounds -DPy_LIMITED_API=0x030B0000 \
            -DFASTMASK_DOUBLE="$([[ $module == *64 ]] && echo 1 || echo 0)" \
            -I. -I"$folder/root/usr/include" -I"$folder/root/usr/include/python3.11" "$module.c" -o "$module.abi3.so"
    fi
done

cd "$folder/src"
"${python[@]}" -m fastmask info
"${python[@]}" -m pytest -p no:cacheprovider "$@"
