# Few words, the same here and in CI.
#   make up           everything that is needed, then the gateway      make check  style, types, the house's rules
#   make test         everything that the tests need, then the tests   make bench  benchmarks, as ratios
#   make setup        what `make up` needs, without starting           make docs   the reference, from the code
#   make setup-train  what `allod train` needs                         make coverage  what the quick tests reach, by room

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
UP     ?=

.PHONY: up setup setup-train dev test test-fast coverage check docs format bench lock clean

up: $(VENV)/.ready
	@exec $(BIN)/allod up $(UP)

setup: $(VENV)/.ready
	@$(BIN)/allod model get

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: no venv module; try: apt-get install python3-venv"; exit 2; }

$(VENV)/.ready: $(VENV)/bin/python requirements/main.txt pyproject.toml
	@echo "installing what Allod needs, checked against requirements/main.txt"
	@$(PIP) install --quiet --require-hashes --requirement requirements/main.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

# `--no-deps`: the list is complete but for torch, which has a file of its own.
$(VENV)/.train: $(VENV)/.ready requirements/torch.txt requirements/train.txt
	@echo "installing what training needs"
	@sh tests/torch.sh $(BIN)/python
	@$(PIP) install --quiet --no-deps --require-hashes --requirement requirements/train.txt
	@touch $@

setup-train: $(VENV)/.train

$(VENV)/.dev: $(VENV)/.train requirements/dev.txt
	@echo "installing what the tests need"
	@$(PIP) install --quiet --no-deps --require-hashes --requirement requirements/dev.txt
	@sh tests/install.sh
	@touch $@

dev: $(VENV)/.dev

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(ARGS)

test-fast: $(VENV)/.dev
	@$(BIN)/python -m pytest -m "not slow and not services" $(ARGS)

# Not in CI: it takes longer than the tests alone. A test that fails spoils no measurement, only the exit status.
coverage: $(VENV)/.dev
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m "not slow and not services" $(ARGS); status=$$?; \
	    $(BIN)/coverage combine --quiet && $(BIN)/coverage json --quiet && $(BIN)/python tests/by_room.py && exit $$status

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --quiet tests/test_house.py

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: $(VENV)/.dev
	@$(BIN)/python docs/generate.py

bench: $(VENV)/.dev
	@sh benchmarks/run.sh

lock: $(VENV)/.dev
	@sh tests/lock.sh

clean:
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* coverage.json
