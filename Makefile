# Two commands do everything on a fresh clone: `make run` and `make test`.
# Settings come from WATTSTREAM_… variables: `WATTSTREAM_PORT=9000 make run`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test check torture attack screenshots clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	@exec $(BIN)/wattstream serve

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

# Faults under load, one after another: ROUNDS of them, in the order that SEED gives.
torture: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python -m faults.torture --rounds $(or $(ROUNDS),100) $(if $(SEED),--seed $(SEED))

# Attacks beside a modest load: what others feel, and the engine's memory. ARGS: --only, --json …
attack: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python -m attacks.run $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

screenshots: $(VENV)/.installed-dev
	@$(BIN)/python tests/screenshots.py build/screenshots

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Wattstream needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Creating the environment in $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing Wattstream and its libraries (once, about a minute) …"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools …"
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@
