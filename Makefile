# Two commands do everything on a fresh clone: `make run` and `make test`.
# Settings come from WATTSTREAM_… variables: `WATTSTREAM_PORT=9000 make run`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Nothing that the locks do not name, by hash; wheels only, so that nothing runs while installing.
LOCKED := -m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: --require-hashes --requirement

.PHONY: run test check torture attack fuzz audit lock screenshots watched clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	@exec $(BIN)/wattstream serve

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

# Faults under load, one after another: ROUNDS of them, in the order that SEED gives.
torture: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python -m faults.torture --rounds $(or $(ROUNDS),100) $(if $(SEED),--seed $(SEED))

# Any bytes on every decoder, or on TARGET only, for SECONDS each.
fuzz: $(VENV)/.installed-fuzz
	@PYTHONPATH=tests $(BIN)/python -m fuzz.run --seconds $(or $(SECONDS),60) $(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

# Attacks beside a modest load: what others feel, and the engine's memory. ARGS: --only, --json …
attack: $(VENV)/.installed-dev
	@PYTHONPATH=tests $(BIN)/python -m attacks.run $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of what the locks name.
audit: build/audit/.installed
	@build/audit/bin/python .ci/audit.py locks/*.txt

# The newest versions that pyproject.toml allows. UPGRADE= keeps those that are locked where they fit.
UPGRADE := --upgrade
COMPILE  = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock' $(UPGRADE)

lock:
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	@$(COMPILE) pyproject.toml --group build --group dev --output-file locks/dev.txt
	@$(COMPILE) pyproject.toml --group build --constraint locks/dev.txt --output-file locks/run.txt
	@$(COMPILE) --group fuzz --constraint locks/dev.txt --output-file locks/fuzz.txt
	@$(COMPILE) --group audit --constraint locks/dev.txt --output-file locks/audit.txt

screenshots: $(VENV)/.installed-dev
	@$(BIN)/python tests/screenshots.py build/screenshots

# Pages in a browser beside 20,000 devices: first paint, delay of a value, what ingest pays.
watched: $(VENV)/.installed-dev
	@$(BIN)/python tests/watched.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Wattstream needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Creating the environment in $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml locks/run.txt | $(VENV)/bin/pip
	@echo "Installing Wattstream and its libraries (once, about a minute) …"
	@$(BIN)/python $(LOCKED) locks/run.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed locks/dev.txt
	@echo "Installing the test tools …"
	@$(BIN)/python $(LOCKED) locks/dev.txt
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev locks/fuzz.txt
	@$(BIN)/python $(LOCKED) locks/fuzz.txt
	@touch $@

build/audit/.installed: locks/audit.txt
	@$(PYTHON) -m venv build/audit
	@build/audit/bin/python $(LOCKED) locks/audit.txt
	@touch $@
