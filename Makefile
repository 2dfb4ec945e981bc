# Verbs for developers; each does its own set-up, so the first one on a fresh machine just works.
# Needed: python3 >= 3.11 with venv and headers, gcc, make; test-vm and test-dpdk also apt (they fetch, install nothing).
PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc)
PYTEST_ARGS ?=
RUN = $(VENV)/bin/python
REPORTS = build/reports
# Named after what it was made from, so that a change of pyproject.toml makes it anew.
STAMP = $(VENV)/.emuiavf-$(shell cksum pyproject.toml | cut -d' ' -f1)
BUILD = setup.py --quiet build_ext --inplace --parallel $(JOBS)

# The sanitized build lives in a copy of the tree, so that the normal one stays as it is.
ASAN_TREE = build/asan
ASAN_RUN = $(abspath $(RUN))
ASAN_ENV = LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  PYTHONMALLOC=malloc EMUIAVF_ASAN=1

.PHONY: run test test-vm test-dpdk compatibility bench lint build debug asan clean

$(STAMP):
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip 'setuptools>=77' wheel 'cython>=3.1'
	$(RUN) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  e = p['optional-dependencies']; print('\n'.join(p['dependencies'] + e['test'] + e['lint']))" \
	  | $(RUN) -m pip install --quiet --requirement /dev/stdin
	EMUIAVF_BARE=1 $(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

build: $(STAMP)
	$(RUN) $(BUILD)

run: build
	$(RUN) -m emuiavf demo

test: build
	$(RUN) -m pytest -m "not vm and not dpdk" --junit-xml=$(REPORTS)/test.xml $(PYTEST_ARGS)

test-vm: build
	$(RUN) -m pytest -m vm tests/vm --junit-xml=$(REPORTS)/test-vm.xml $(PYTEST_ARGS)

test-dpdk: build
	$(RUN) -m pytest -m dpdk tests/dpdk --junit-xml=$(REPORTS)/test-dpdk.xml $(PYTEST_ARGS)

# What docs/compatibility.md claims, against the reports of whole runs of the three above.
compatibility: $(STAMP)
	$(RUN) -m tests.compatibility $(addprefix $(REPORTS)/,test.xml test-dpdk.xml test-vm.xml)

bench: build
	$(RUN) bench/run.py
	$(RUN) bench/profile.py
	$(RUN) bench/bench_switch.py
	$(RUN) bench/peers.py --results build/peers.json

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint emuiavf

debug: $(STAMP)
	EMUIAVF_DEBUG=1 $(RUN) $(BUILD) --force

asan: $(STAMP)
	mkdir -p $(ASAN_TREE)
	find emuiavf -name '*.pyx' | sed 's/\.pyx$$/.c/' > $(ASAN_TREE)/generated
	tar -c --exclude='*.so' --exclude-from=$(ASAN_TREE)/generated --exclude=__pycache__ \
	  --exclude=.cache emuiavf bench docs tests setup.py pyproject.toml README.md | tar -x -C $(ASAN_TREE)
	cd $(ASAN_TREE) && EMUIAVF_ASAN=1 $(ASAN_RUN) $(BUILD)
	cd $(ASAN_TREE) && $(ASAN_ENV) $(ASAN_RUN) -m pytest -p no:cacheprovider \
	  -m "not vm and not dpdk" --deselect tests/test_nogil.py --deselect tests/test_layers.py $(PYTEST_ARGS)

clean:
	rm -rf build dist *.egg-info
	find emuiavf -name '*.so' -delete
	find emuiavf -name '*.pyx' | sed 's/\.pyx$$/.c/' | xargs rm -f
