# Every target makes the virtual environment by itself when it is absent or older than the files that describe it. What else
# is in it (another build of torch, extras) stays.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
FOR_DEVELOPERS = $(VENV)/.installed-for-developers
RUNS ?= runs
# Processes that `make test` shares its tests among; tests that start clusters run one after another in one of them.
JOBS ?= 2
# Passed to pytest, such as TEST_OPTIONS=--last-failed.
TEST_OPTIONS ?=

.PHONY: demo test test-cluster check perf soak clean
.DELETE_ON_ERROR:

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "t2m-bench needs Python 3.11 or newer; choose one with: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What tests and checks need beside what a user needs.
$(FOR_DEVELOPERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

# The whole main job on phantoms: nothing to download, ends by naming the report.
demo: $(INSTALLED)
	$(BIN)/t2m-bench demo --runs $(RUNS)

test: $(FOR_DEVELOPERS)
	$(BIN)/python -m pytest -m 'not soak and not cluster' -n $(JOBS) $(TEST_OPTIONS)

# Slurm, kills, lost nodes, object storage, fresh environments and pseudo-terminals.
test-cluster: $(FOR_DEVELOPERS)
	$(BIN)/python -m pytest -m 'cluster and not soak' $(TEST_OPTIONS)

check: $(FOR_DEVELOPERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/checks/count_phrases.py tests

# Ratios measured side by side: the plain way, ours, the limit; into perf.json and perf.md. Peers that cannot be installed
# are named there as not measured.
perf: $(INSTALLED)
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[perf]'
	$(BIN)/t2m-bench perf all --runs $(RUNS)

# Long trials, kept out of `make test`: among them fifty kills, each told with its step.
soak: $(FOR_DEVELOPERS)
	$(BIN)/python -m pytest -m soak

clean:
	rm -rf $(VENV) .ci-venv
