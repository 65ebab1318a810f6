# make sweep   environment, then the main job on the generated log
# make test    environment, then checks and all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEARCHES := benchmarks/pruning.py benchmarks/sweep_vs_plain_tune.py  # two studies each: hours at full length
READY := $(VENV)/.ready

.PHONY: sweep test check faults bench format clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, got {v[0]}.{v[1]}; set PYTHON=python3.11" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[dev]'
	touch $@

sweep: $(READY)
	$(BIN)/seqsweep run --name demo --trials 8 --max-epochs 18 --fix loss=ce --fix max_len=50 --finalists 2 --finalist-seeds 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -m "not faults"

faults: $(READY)  # the fault campaign in its long form
	$(BIN)/pytest -m faults tests/faults

bench: $(READY)
	for script in $(filter-out $(SEARCHES),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done
	for script in $(SEARCHES); do $(BIN)/python $$script --trials 8 --max-epochs 9 || exit 1; done

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
