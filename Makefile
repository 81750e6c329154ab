# Each target sets up .venv by itself, once; a change of pyproject.toml sets it up anew.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2
MINUTES ?= 10
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-thorough lint format bench laws soak clean

help:
	@echo "make demo            M-SoBiRL designs shaping rewards for FrozenLake 8x8; writes runs/demo/run.png"
	@echo "make test            run the tests (quick Hypothesis profile)"
	@echo "make test-thorough   run the tests with many more examples"
	@echo "make lint            ruff, mypy --strict, import-linter"
	@echo "make format          let ruff format and fix what it can"
	@echo "make bench           benchmarks: ratios against hand-written NumPy"
	@echo "make soak            kills, faults and fuzzing for MINUTES=10, with a table of what they showed"
	@echo "make laws            everything registered, and every planted fault, against every law; writes a docs page"

$(READY): pyproject.toml
	@echo "Setting up .venv (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	@$(BIN)/bilevelrl run frozenlake-shaping --algorithm m-sobirl --iterations 3000 --out runs/demo

test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-thorough: $(READY)
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)
	@$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-only \
		--benchmark-columns=min,median,rounds --benchmark-sort=name --benchmark-json=.benchmarks.json -s

laws: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m kit.matrix

soak: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv dist build runs soak-failures .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks*
