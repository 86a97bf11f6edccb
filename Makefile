# `make demo` and `make test` work on a bare machine with Python >= 3.10 and a package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share the tests, with one thread each.
JOBS ?= 2
# Without an NVIDIA GPU the constraints choose CPU wheels; with one, the CUDA build comes on its own.
CONSTRAINT := $(if $(shell command -v nvidia-smi 2>/dev/null),,PIP_CONSTRAINT=$(CURDIR)/constraints/cpu.txt)

.PHONY: demo test lint format venv clean

demo: $(STAMP)
	$(BIN)/l2p demo --out l2p-demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

venv: $(STAMP)

$(STAMP): pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(CONSTRAINT) $(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) l2p-demo
