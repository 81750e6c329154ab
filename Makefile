# Each target sets up .venv by itself, once, with what it needs; a change of pyproject.toml sets it up again.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO_READY := .venv/.ready-demo
BENCH_READY := .venv/.ready-bench
WORKERS ?= 2
MINUTES ?= 10
SECONDS ?= 60
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-thorough coverage fuzz mutants soak lint format bench laws clean

# Where this is set, each of the processes that the tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo            M-SoBiRL designs shaping rewards for FrozenLake 8x8; writes runs/demo/run.png"
	@echo "make test            run the tests, except those marked slow, in a few minutes"
	@echo "make test-all        run all tests, with larger budgets of examples"
	@echo "make test-thorough   run all tests with many more examples"
	@echo "make coverage        the tests, and how much of core/ they reach; fails below 95 % by branch"
	@echo "make fuzz            every reader of files, on files made to hurt (SECONDS=60 SEED=0)"
	@echo "make mutants         changes the source in small ways, to see what no test notices (MODULES=bilevelrl.mdp)"
	@echo "make lint            ruff, mypy --strict, import-linter"
	@echo "make format          let ruff format and fix what it can"
	@echo "make bench           benchmarks: ratios against NumPy, JAX and compiled loops; writes .benchmarks.json"
	@echo "make soak            kills, faults and fuzzing for MINUTES=10, with a table of what they showed"
	@echo "make laws            everything registered, and every planted fault, against every law; writes a docs page"

# $(call install,EXTRA): modules are compiled when they are first imported.
define install
	@test -x $(BIN)/python || { echo "Creating the environment .venv ..."; $(PYTHON) -m venv .venv; }
	@echo "Fetching the packages that bilevelrl[$(1)] needs ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-compile --editable '.[$(1)]' \
		| awk '/^Installing collected packages:/ { printf "Installing %d packages ...\n", NF - 3; fflush() }'
endef

$(READY): pyproject.toml
	$(call install,dev)
	@touch $(READY) $(DEMO_READY)

$(DEMO_READY): pyproject.toml
	$(call install,demo)
	@touch $(DEMO_READY)

$(BENCH_READY): $(READY)
	$(call install,bench)
	@touch $(BENCH_READY)

demo: $(DEMO_READY)
	@echo "Running M-SoBiRL on FrozenLake 8x8 for 3,000 iterations; the first ones wait for compilation ..."
	@$(BIN)/bilevelrl run frozenlake-shaping --algorithm m-sobirl --iterations 3000 --out runs/demo

test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(READY)
	@HYPOTHESIS_PROFILE=full $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

coverage: $(READY)
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --ignore=tests/docs --cov --cov-report=
	@$(BIN)/coverage report --include='core/*' --fail-under=95

fuzz: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

mutants: $(READY)
	@$(BIN)/python tests/mutants.py $(MODULES)

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

bench: $(BENCH_READY)
	@$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-only \
		--benchmark-columns=min,median,rounds --benchmark-sort=name --benchmark-json=.benchmarks.json -s

laws: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m kit.matrix

soak: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv dist build runs soak-failures .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks* \
		.coverage* mutants fuzz-failures
