# make sweep   environment, then the main job on the generated log
# make test    environment, then checks and all tests; make test-fast: the tests without Ray
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
BENCHES := train_epoch rank_users growth large_catalogue tisasrec_memory mhc_overhead prepare_log store_sharing \
	sweep_overhead study_cost evaluation_schedule
SEARCHES := pruning sweep_vs_plain_tune  # two studies each: hours at full length
READY := $(VENV)/.ready
PARALLEL := -n auto --maxprocesses 4 --dist loadfile  # a file stays in one process, and shares its Ray

.PHONY: sweep test test-fast check faults cluster cluster-short cluster-tools browser-tools bench bench-peers docs format clean

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
	$(BIN)/pytest $(PARALLEL) -m "not faults and not cluster and not slow"
	$(BIN)/pytest -m "slow and not faults and not cluster"  # studies with Ray, which would starve each other

test-fast: $(READY)  # what needs neither Ray nor a process of its own: three minutes on two cores
	$(BIN)/pytest $(PARALLEL) -m "not faults and not cluster and not slow"

faults: $(READY)  # the fault campaign in its long form
	$(BIN)/pytest -m faults tests/faults

cluster: $(READY) cluster-tools  # several nodes on this machine; as root
	$(BIN)/pytest -m cluster tests/cluster

cluster-short: $(READY) cluster-tools  # its form of a few minutes
	$(BIN)/pytest -m "cluster and not long" tests/cluster

cluster-tools:  # what tests/cluster needs beside root; where it can't be had they are skipped and say so
	@command -v sshd ip nsenter rsync > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null || { \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
			openssh-server openssh-client rsync iproute2 util-linux > /dev/null; } || true

browser-tools:  # what tests/browser needs; where it can't be had they are skipped and say so
	@command -v chromium > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null || { \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
			chromium > /dev/null; } || true

bench: $(READY)
	for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	test "$$(id -u)" != 0 || $(BIN)/python -m benchmarks.store_sharing_nodes  # on nodes that root alone can make
	for name in $(SEARCHES); do $(BIN)/python -m benchmarks.$$name --trials 8 --max-epochs 9 || exit 1; done
	$(BIN)/python -m benchmarks.readme

bench-peers: $(READY)  # RecTools pins other versions of much that we use
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "rectools[torch]==0.19.*"
	$(BIN)/python -m benchmarks.bench_peers --peer-python $(PEERS)/bin/python
	$(BIN)/python -m benchmarks.readme

docs: $(READY)  # the site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
