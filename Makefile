# make demo   train on handwritten digits, forget a class, compare with retrained models
# make test   the default tests; make test-all adds those that need minutes; both in WORKERS processes
# make check  linter, format, types, and which room may import which
# make clean  removes the virtual environment; what was computed, runs/, stays
PYTHON ?= python3
# 2.13.0 is what the project is tested with; TORCH=torch takes the newest that pyproject admits
TORCH ?= torch==2.13.0
# a number, or auto: one process a core
WORKERS ?= auto
BIN := .venv/bin
READY := .venv/.ready
# a file's tests stay in one process, which builds their fixtures once
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test test-all check clean

demo: $(READY)
	$(BIN)/python train.py data=digits imbalance=step imbalance.ratio=0.3 model.width=32 seed=1 out=runs/demo/train
	$(BIN)/python unlearn.py -m sweep=oracles kit=runs/demo/train forget=[0] oracles.folder=runs/demo/oracles oracles.add=1,2,3
	$(BIN)/python unlearn.py -m kit=runs/demo/train forget=[0] unlearner=none,geniu,logit_mask,retrain oracles.folder=runs/demo/oracles oracles.count=3 'out=runs/demo/$${unlearner.name}'
	$(BIN)/geniu report runs/demo
	@echo "Results: runs/demo/train (proxies.png, ...), runs/demo/geniu (metrics.json, receipt.md, ...), ..."

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf .venv
