# make sweep   environment, then the main job on the generated log
# make test    environment, then checks and all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
PEER_BENCH := benchmarks/bench_peers.py
SEARCHES := benchmarks/pruning.py benchmarks/sweep_vs_plain_tune.py  # two studies each: hours at full length
READY := $(VENV)/.ready

.PHONY: sweep test check faults bench bench-peers format clean

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
	for script in $(filter-out $(SEARCHES) $(PEER_BENCH),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done
	for script in $(SEARCHES); do $(BIN)/python $$script --trials 8 --max-epochs 9 || exit 1; done

bench-peers: $(READY)  # RecTools pins other versions of much that we use
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "rectools[torch]==0.19.*"
	$(BIN)/python benchmarks/bench_peers.py --peer-python $(PEERS)/bin/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
