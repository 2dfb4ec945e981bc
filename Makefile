# Verbs for developers; each does its own set-up, so the first one on a fresh machine just works.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
STAMP = $(VENV)/.installed

.PHONY: run test test-vm bench lint build debug asan clean

$(STAMP): pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip 'setuptools>=68' wheel 'cython>=3.1'
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(RUN) -m pip install --quiet 'emuiavf[test,lint] @ file://$(CURDIR)' --dry-run >/dev/null 2>&1 || true
	$(RUN) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print('\n'.join(p['dependencies'] + sum(p['optional-dependencies'].values(), [])))" \
	  | $(RUN) -m pip install --quiet --requirement /dev/stdin
	touch $@

build: $(STAMP)
	$(RUN) setup.py --quiet build_ext --inplace

run: build
	$(RUN) -m emuiavf demo

test: build
	$(RUN) -m pytest -m "not vm"

test-vm: build
	$(RUN) -m pytest -m vm tests/vm

bench: build
	$(RUN) bench/run.py

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/cython-lint emuiavf

debug: $(STAMP)
	EMUIAVF_DEBUG=1 $(RUN) setup.py --quiet build_ext --inplace --force

clean:
	rm -rf build dist *.egg-info
	find emuiavf -name '*.so' -delete
	find emuiavf -name '*.pyx' | sed 's/\.pyx$$/.c/' | xargs rm -f
