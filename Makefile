# freshrecall: every target builds its own .venv first; nothing else has to be installed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := var/peers
SCANN := var/peers-scann
ARGS  ?=

.PHONY: help demo test check bench bench-quick peers findings rankers format docs clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@printf '\n  ARGS are passed on: make demo ARGS="--short --exit", make test ARGS="tests/stream -x"\n'

demo: $(STAMP)  ## The whole loop on real purchases: broker, store, consumer, scheduler, server (about 4 minutes)
	$(BIN)/freshrecall demo $(ARGS)

test: $(STAMP)  ## All tests, with the real broker and store as child processes
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)  ## Formatting, lint, types, layers, and the generated part of the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/freshrecall config --docs docs/operating.md --check
	$(BIN)/python -m benchmarks.readme --check
	$(BIN)/python -m benchmarks.findings.tables --check
	$(BIN)/python -m benchmarks.rankers.page --check
	$(BIN)/python -m benchmarks.closed_loop.page --check
	$(BIN)/python -m benchmarks.page --check

bench: $(PEERS)/.installed $(SCANN)/.installed  ## Measurements against peers and the full demo; writes benchmarks/results and the tables of README.md and docs/performance.md
	$(BIN)/python -W ignore -m benchmarks $(ARGS)
	$(BIN)/freshrecall demo --exit
	cp var/demo/report.json benchmarks/results/demo.json
	$(BIN)/python -m benchmarks.readme
	$(BIN)/python -m benchmarks.page

bench-quick: $(STAMP)  ## The same at small sizes, in under 3 minutes, beside the figures of the last full run
	$(BIN)/python -W ignore -m benchmarks --quick $(ARGS)

peers: $(PEERS)/.installed $(SCANN)/.installed  ## Other projects in environments of their own; with ARGS they are measured (see benchmarks/peers)
	$(if $(ARGS),$(PEERS)/bin/python -W ignore -m benchmarks.peers $(ARGS),@echo "Ready: make peers ARGS=--help")

findings: $(STAMP)  ## Backtests behind docs/findings.md that are missing (hours; resumable); ARGS="--kuairand DIR …"
	$(BIN)/python -W ignore -m benchmarks.findings $(ARGS)

rankers: $(STAMP)  ## Rankers on kuairand behind docs/ranking.md (hours; resumable); ARGS="--kuairand DIR"
	$(BIN)/python -W ignore -m benchmarks.rankers $(ARGS)

format: $(STAMP)  ## Put code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Write the generated parts of docs and README.md anew
	$(BIN)/freshrecall config --docs docs/operating.md
	$(BIN)/python -m benchmarks.readme
	$(BIN)/python -m benchmarks.findings.tables
	$(BIN)/python -m benchmarks.rankers.page
	$(BIN)/python -m benchmarks.closed_loop.page
	$(BIN)/python -m benchmarks.page

clean:  ## Remove the environment and everything the demo wrote
	rm -rf $(VENV) var build *.egg-info

# The stamp is written last: an interrupted installation starts again. A shim on PATH may exist and still
# not run (pyenv without that version), so each candidate has to prove its version.
$(STAMP): pyproject.toml
	@python=; for candidate in python3.11 /usr/bin/python3.11 python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "freshrecall needs Python 3.11: looked for python3.11 and python3 on PATH, python3 is: $$(python3 --version 2>&1 || true)" >&2; \
	  echo "Install Python 3.11 (with its venv module) and run make again." >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  echo "Creating $(VENV) with $$($$python --version)"; $$python -m venv --clear $(VENV); \
	fi
	@echo "Installing freshrecall and its dependencies into $(VENV) (one to a few minutes, once)"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@echo "Compiling the kernels (15 seconds, once)"
	@$(BIN)/python -W ignore -m models.precompile
	@$(BIN)/python -W ignore -m stream.precompile
	@touch $@

# Made by the project's own Python, apart from its packages: the peers need older versions of some, and ScaNN
# newer ones than the others.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
$(SCANN)/.installed: benchmarks/peers/requirements-scann.txt
$(PEERS)/.installed $(SCANN)/.installed: | $(STAMP)
	@echo "Installing the peers into $(@D) (some minutes, once)"
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q -r $<
	@touch $@
