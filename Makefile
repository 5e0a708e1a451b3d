# Every command a newcomer or CI needs. `make demo` and `make test` need nothing but Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# Without compiled modules, every process of the tests spends ten seconds on compiling them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo up check test test-ranges soak bench docs lint lint-docs lint-deploy lint-clients types quick unit format deb \
  clean help system-packages

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "natterjack needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# This file names the extras, so a change of it installs them, too.
$(VENV)/.local: $(BIN)/python pyproject.toml Makefile
	@echo "installing natterjack and the embedded engines (about 200 MB, once) ..."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[local,gateway]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml Makefile
	@echo "installing natterjack, the embedded engines and what the tests need (1.5 GB on disk, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local,gateway,dev]'
	@touch $(VENV)/.local $@

demo: $(VENV)/.local ## everything from nothing: speech in, captions out; and back, with ARGS=--voice
	@$(BIN)/natterjack demo $(ARGS)

up: $(VENV)/.local ## keep a whole stack running, with its page in the browser: ARGS=--open opens it
	@$(BIN)/natterjack up $(ARGS)

system-packages: | $(BIN)/python ## what the tests want from Debian (installs it if root, else says so)
	@sh tests/system_packages.sh

check: $(VENV)/.dev ## while you work: format, rules, types, and all tests that start neither a process nor the engine
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j 2 types quick

types: $(VENV)/.dev
	$(BIN)/mypy

quick: $(VENV)/.dev
	TEST_SHARES=12 $(BIN)/pytest -m "not process and not engine" $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, and what looks at the chart, images, rules, scripts and clients
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j 2 types lint-docs lint-deploy lint-clients

# An environment of its own: it pins versions of what the rest of the project uses too. Most of its modules
# are never imported, so none is compiled before that.
$(VENV)-checkov/.done: tests/deploy/checkov.txt | $(BIN)/python
	@echo "installing checkov (290 MB, once) ..."
	$(BIN)/python -m venv $(VENV)-checkov
	$(VENV)-checkov/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-compile -r tests/deploy/checkov.txt
	@touch $@

lint-deploy: $(VENV)/.dev $(VENV)-checkov/.done
	@sh tests/deploy/lint.sh

lint-clients: $(VENV)/.dev
	@$(BIN)/python -m tests.clients.npm run lint

docs: $(VENV)/.dev ## write the generated reference pages, and build the site into build/site
	@$(BIN)/python -m docs.generate
	@$(MAKE) --no-print-directory lint-docs

# The variable silences mkdocs-material's advertisement of its successor: mkdocs.yml has the reasons.
lint-docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

unit: $(VENV)/.dev system-packages ## the tests alone
	TEST_SHARES=8 $(BIN)/pytest $(ARGS)

# Each installation uses one processor and waits for downloads, so they run beside one another.
.PHONY: installed
installed:
	@$(MAKE) --no-print-directory -j 3 $(VENV)/.dev $(VENV)-checkov/.done system-packages

# Beside one another, since tests wait more than they compute.
test: installed lint ## what CI runs
	@$(MAKE) --no-print-directory -j 2 unit test-ranges RANGES=--skip-installed

test-ranges: $(VENV)/.dev ## tests with the oldest and the newest nats-py and aiohttp allowed, and with an earlier Python
	@$(BIN)/python -m tests.ranges $(RANGES)

soak: $(VENV)/.dev ## many random examples, then two hours of random faults, with a table at the end
	TEST_SEARCH=3 TEST_SHARES=4 $(BIN)/pytest -q $$(grep -rlE --include='test_*.py' '(tests|\.)\.searching' tests)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

bench: $(VENV)/.dev ## measure all of it, beside a bare relay and beside other programs
	@$(BIN)/python -m bench $(ARGS)

deb: $(BIN)/python ## build Debian's package of the edge into build/, for this release and architecture
	@PIP="$(BIN)/python -m pip" sh deploy/deb/build.sh build

format: $(VENV)/.dev ## rewrite the sources in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches
	rm -rf $(VENV) $(VENV)-checkov clients/js/node_modules clients/js/dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
