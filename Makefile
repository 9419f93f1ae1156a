# Each target makes what it needs. PYTHON is any Python from 3.11 on; ARGS go to the command that a target runs.
PYTHON ?= python3
ARGS ?=
THREADS ?= 1
WORKERS ?= auto
BACKENDS ?= tensorflow torch jax numpy
EXAMPLES ?= 1000
DURATION ?= 1800
REV ?= HEAD

BIN := build/venv/bin
PEERS := build/peers/venv/bin
# One process for every CPU that may be used; a process without tests left takes over some of another's.
PARALLEL := -n $(WORKERS) --dist worksteal
NATIVE := setup.py pyproject.toml $(wildcard $(foreach kind,pyx pxi h,fastmask/kernels/*.$(kind) fastmask/kernels/*/*.$(kind)))
SOURCES := $(NATIVE) Makefile $(wildcard *.md docs/*.md examples/*.md *.in LICENSE) \
	$(shell find fastmask tests bench tools examples -name '*.py' -o -name '*.pyi' -o -name '*.npz' -o -name '*.zip' -o -name '*.json' -o -name py.typed)

.PHONY: help demo test test-hypothesis test-bridges asan tsan fuzz exhaustive bench bench-peers bench-requests bench-precision bench-steps bench-against lint build wheel check-wheel clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo 'make demo         build the wheel, install it into an environment of its own and run the demo'
	@echo 'make test         run the tests                        (make test ARGS="-k lstm")'
	@echo 'make test-bridges test fastmask.torch, and fastmask.keras on each backend'
	@echo 'make asan         run the tests under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make test-hypothesis  try bad input at length          (make test-hypothesis EXAMPLES=500)'
	@echo 'make fuzz         coverage-guided fuzzing              (make fuzz DURATION=3600)'
	@echo 'make exhaustive   exp, tanh and sigmoid for all float32 numbers'
	@echo 'make bench        time every operation                 (make bench THREADS=2 ARGS="-k gru")'
	@echo 'make bench-peers  time it beside PyTorch, Keras, ONNX Runtime and NumPy; writes docs/benchmarks/'
	@echo 'make bench-requests  time small requests to a model beside ONNX Runtime'
	@echo 'make bench-precision  time 8-bit integers beside float32'
	@echo 'make bench-steps  time single steps of fastmask.torch beside torch.nn'
	@echo 'make bench-against  time layers beside those of another commit  (make bench-against REV=HEAD~1)'
	@echo 'make lint         ruff, mypy, stubtest, import-linter, cython-lint'
	@echo 'make build        compile in place what has changed'
	@echo 'make wheel        make the source distribution, and from it the wheel, in dist/'
	@echo 'make check-wheel  try the wheel with every Python from 3.11 to 3.13 and every instruction set there is'
	@echo 'make tsan         compile with ThreadSanitizer, apart, and run the tests of threads'
	@echo 'make clean        remove all that was made'

demo: build/demo/.installed
	build/demo/bin/python -P -m fastmask $(ARGS)

test: build/venv/.ready
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# Keras has one backend a process. The second line compares files and examples with Keras's own.
test-bridges: build/peers/venv/.ready
	PYTHONPATH="$$PWD" $(PEERS)/python -m pytest $(filter-out $(wildcard tests/bridges/test_keras_*.py),$(wildcard tests/bridges/test_*.py)) $(ARGS)
	FASTMASK_KERAS_PYTHON="$$PWD/$(PEERS)/python" $(BIN)/python -m pytest tests/test_examples.py tests/keras_parity/test_files_live.py $(ARGS)
	set -e; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend PYTHONPATH="$$PWD" $(PEERS)/python -m pytest tests/bridges/test_keras_*.py $(ARGS); done

# All is copied, so that tests and the processes they start find the checked kernels and not those of the checkout.
asan: build/asan/.made
	rm -rf $(addprefix build/asan/,bench docs examples tests tools)
	tar -c --exclude='*.so' --exclude='*.c' --exclude=__pycache__ pyproject.toml Makefile LICENSE $(wildcard *.md *.in) \
		bench docs examples fastmask tests tools | tar -x -C build/asan
	cd build/asan && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$$PWD" \
		../venv/bin/python -m pytest -p no:cacheprovider --capture=sys $(PARALLEL) $(ARGS)

test-hypothesis: build/venv/.ready
	FASTMASK_EXAMPLES=$(EXAMPLES) FASTMASK_STEPS=10000 $(BIN)/python -m pytest tests/reliability $(PARALLEL) $(ARGS)

fuzz: build/venv/.ready
	$(BIN)/python -m pip install --quiet atheris
	for target in ops files; do mkdir -p build/fuzz/$$target tests/reliability/corpus/$$target && \
		$(BIN)/python tools/fuzz_$$target.py build/fuzz/$$target tests/reliability/corpus/$$target \
		-max_total_time=$(DURATION) -artifact_prefix=build/fuzz/$$target- $(ARGS) || exit 1; done

exhaustive: build/venv/.ready
	$(BIN)/python tools/exhaustive.py $(ARGS)

bench: build/venv/.ready
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest bench -W default --benchmark-columns=min,median,rounds --benchmark-sort=name $(ARGS)

bench-peers: build/peers/venv/.ready
	PYTHONPATH="$$PWD" $(PEERS)/python -m bench.peers $(ARGS)

bench-requests: build/peers/venv/.ready
	PYTHONPATH="$$PWD" $(PEERS)/python -m bench.requests $(ARGS)

bench-precision: build/peers/venv/.ready
	PYTHONPATH="$$PWD" $(PEERS)/python -m bench.precision $(ARGS)

bench-steps: build/peers/venv/.ready
	PYTHONPATH="$$PWD" $(PEERS)/python -m bench.torch_steps $(ARGS)

bench-against: build/venv/.ready
	$(BIN)/python bench/against.py $(REV) $(ARGS)

lint: build/venv/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml fastmask.kernels.cpu fastmask.kernels.memory fastmask.kernels.packing fastmask.kernels.waiting
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_imports.py
	PATH="$$PWD/$(BIN):$$PATH" cython-lint fastmask/kernels/*.pyx fastmask/kernels/*.pxi fastmask/kernels/*/*.pxi

build: build/venv/.ready

wheel: dist/.made

check-wheel: dist/.made
	build/tools/bin/python -m pip install --quiet abi3audit auditwheel check-sdist
	build/tools/bin/abi3audit --strict dist/*.whl
	if test "$$(uname -s)" = Linux; then build/tools/bin/auditwheel show dist/*.whl | tee build/auditwheel.log && grep -q manylinux_2_17_ build/auditwheel.log; fi
	if test -e .git; then build/tools/bin/check-sdist > build/check-sdist.log || { tail build/check-sdist.log; false; }; fi
	build/tools/bin/python tools/check_wheel.py dist/*.whl $(ARGS)

# Reports of races end in status 66. Addresses are not random because ThreadSanitizer does not bear it on every kernel.
tsan: build/tsan/.made
	cd build/tsan && LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" PYTHONPATH="$$PWD" setarch "$$(uname -m)" -R ../venv/bin/python -m pytest -p no:cacheprovider tests/reliability/test_concurrency.py tests/test_threads.py tests/ops/rnn/test_sharing.py tests/ops/rnn/test_ahead.py -k 'test_threads_with or interruption or task or share_a or late or first or callers or blocks or repeated' $(ARGS)

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f fastmask/kernels/*.c fastmask/kernels/*.so
	find fastmask tests bench tools examples -name __pycache__ -prune -exec rm -rf {} +

build/venv/pyvenv.cfg build/tools/pyvenv.cfg build/peers/venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(@D)

# The package, compiled in place, with what testing, timing and checking it need.
build/venv/.ready: build/venv/pyvenv.cfg $(NATIVE)
	@echo 'Installing fastmask and its tools; the first time it is compiled, which takes a minute or two.'
	$(BIN)/python -m pip install --quiet --editable '.[test,bench,lint]'
	touch $@

# The libraries that fastmask runs under and is timed beside; they take 3 GB. It is used as compiled in place.
build/peers/venv/.ready: build/venv/.ready build/peers/venv/pyvenv.cfg bench/peers/requirements.txt
	@echo 'Installing PyTorch, TensorFlow, JAX and ONNX Runtime.'
	$(PEERS)/python -m pip install --quiet --requirement bench/peers/requirements.txt
	touch $@

# The kernels are compiled once more, with checks, and stand with a copy of the package in a folder of their own.
build/asan/.made: CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
build/asan/.made: build/venv/.ready $(NATIVE)
	rm -rf build/asan
	mkdir -p build/asan
	tar -c --exclude='*.so' --exclude='*.c' setup.py pyproject.toml README.md LICENSE fastmask | tar -x -C build/asan
	$(BIN)/python -m pip install --quiet 'setuptools>=77' 'cython>=3.3,<3.4'
	cd build/asan && CFLAGS='$(CHECKS)' LDFLAGS='$(CHECKS)' ../venv/bin/python setup.py --quiet build_ext --inplace
	touch $@

# With only a few files beside the package, so that nothing of it is taken from the checkout.
build/tsan/.made: build/venv/.ready $(NATIVE) $(SOURCES)
	rm -rf build/tsan
	mkdir -p build/tsan
	cp -r setup.py pyproject.toml README.md LICENSE fastmask tests build/tsan
	rm -f build/tsan/fastmask/kernels/*.so build/tsan/fastmask/kernels/*.c
	cd build/tsan && CFLAGS="-g -fsanitize=thread" ../venv/bin/python setup.py --quiet build_ext --inplace
	touch $@

# The wheel is made from the source distribution, in environments of their own.
dist/.made: build/tools/pyvenv.cfg $(SOURCES)
	@echo 'Building the wheel, which takes a minute or two.'
	rm -rf dist
	build/tools/bin/python -m pip install --quiet build
	build/tools/bin/pyproject-build --quiet --outdir dist
	touch $@

build/demo/.installed: dist/.made
	$(PYTHON) -m venv --clear build/demo
	build/demo/bin/python -m pip install --quiet dist/*.whl
	touch $@
