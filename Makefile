# The only two commands anyone needs: `make demo` and `make test`.
# Needs python3 (3.10 or newer, with venv) and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
DOCS ?= docs/_build/html
# Packages are thousands of modules: those that are imported are compiled when they are.
INSTALL := $(PIP) install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: help demo test lint types kernels pytest slow fuzz docs reference benchmark clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       train or load a network, run it as a circuit, compare"
	@echo "make test       ruff, mypy and pytest"
	@echo "make slow       the tests that make test leaves out: what shorter ones look at, too"
	@echo "make fuzz       ten minutes of hostile files, command lines, simulators and kills"
	@echo "make docs       guides and reference as HTML in $(DOCS)"
	@echo "make reference  compare with published HSPICE results; says which repositories to clone"
	@echo "make benchmark  ten minutes: times beside other programs and the machine's peak; gains; convolutions"
	@echo "make clean      remove .venv and everything generated"

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: lint
	@$(MAKE) --no-print-directory -j 2 types kernels
	@$(MAKE) --no-print-directory pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Once, on the core that mypy leaves: processes that run tests would each compile all of them.
kernels: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python tests/compile_kernels.py || \
	  echo "not all kernels were compiled ahead, see above: tests compile them" >&2

pytest: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_FLAGS)

# And the tests that draw examples, with new ones.
slow:
	@$(MAKE) --no-print-directory pytest PYTEST_FLAGS='-m "slow or hypothesis" --hypothesis-profile=default'

# SEED=7 repeats a run; FUZZ="--area readers --case 12" one attempt of it.
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(SEED),--seed $(SEED)) $(FUZZ)

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs -d docs/_build/doctrees . $(DOCS)
	@echo "$(DOCS)/index.html"

reference: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/reference.py $(if $(REFERENCES),--references $(REFERENCES))

benchmark: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "imac_torch needs Python 3.10 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; \
	  exit 1; }

# An editable install follows changes of the sources by itself: only new requirements need pip.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing imac_torch and what it needs into $(VENV) (a minute or two the first time) ..."
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[examples]'
	@touch $@

# All at once: pip looks at every package again in each run.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing imac_torch and all that its tests need into $(VENV) (a minute or two the first time) ..."
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[examples,dev,benchmarks]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable '.[examples,docs]'
	@touch $@

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist runs fuzz-failures
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
