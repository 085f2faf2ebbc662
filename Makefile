# Every target makes the virtual environment by itself when it is absent or older than the files that describe it. What else
# is in it (another build of torch, extras) stays.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
FOR_DEVELOPERS = $(VENV)/.installed-for-developers
RUNS ?= runs
LOWEST = .venv-lowest
QUICK_TESTS = $(addprefix tests/,recipe data metrics statistics models search training)
# Processes that `make test` shares its tests among; tests that start clusters run one after another in one of them.
JOBS ?= 2
# Passed to pytest, such as TEST_OPTIONS=--last-failed.
TEST_OPTIONS ?=

.PHONY: demo test test-cluster test-lowest check docs perf soak clean
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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev,docs]'
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
	$(BIN)/python tests/checks/find_entry_names.py t2m_bench
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The pages that are generated from the code, and the site in site/.
docs: $(FOR_DEVELOPERS)
	$(BIN)/python docs/generate_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Ratios measured side by side: the plain way, ours, the limit; into perf.json and perf.md. Peers that cannot be installed
# are named there as not measured.
perf: $(INSTALLED)
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[perf]'
	$(BIN)/t2m-bench perf all --runs $(RUNS)

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

# Tests that are quick and need no cluster, on the oldest versions that pyproject.toml allows.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -m 'not soak and not cluster' $(QUICK_TESTS)

# Long trials, kept out of `make test`: among them fifty kills, each told with its step; then the oldest versions.
soak: $(FOR_DEVELOPERS)
	$(BIN)/python -m pytest -m soak
	$(MAKE) test-lowest

clean:
	rm -rf $(VENV) $(LOWEST) .ci-venv
