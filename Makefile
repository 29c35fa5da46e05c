# Everything a contributor types. Each target makes .venv ready first (tools/environment.sh),
# which takes minutes the first time and no time after that.
#
#   make demo TORCH_REQUIREMENT="torch==2.7.1"   another torch
#   make test PYTHON=python3.12                  another interpreter
#   make test ARGS="tests/unit -x"               arguments for the program behind the target

SHELL := /bin/bash
BIN := .venv/bin
ARGS ?=
PYTHON ?=
TORCH_REQUIREMENT ?= torch
export PYTHON TORCH_REQUIREMENT

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-chaos test-lowest check bench proto reference clean environment-check

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | \
	  while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: ## Watch workers outlive the engine that drives them
	@tools/environment.sh demo
	@$(BIN)/kubediffusion demo $(ARGS)

test: ## Run the tests
	@tools/environment.sh test
	@$(BIN)/pytest $(ARGS)

test-matrix: ## Try every pipeline with every scheduler, and write the table of the docs
	@tools/environment.sh test
	@$(BIN)/python tests/support/resume_matrix.py docs/reference/resume-matrix.md

test-chaos: ## Kill workers and engines 100 times under 200 generations
	@tools/environment.sh test
	@KUBEDIFFUSION_CHAOS_GENERATIONS=200 KUBEDIFFUSION_CHAOS_KILLS=100 \
	  $(BIN)/pytest tests/e2e/chaos

check: environment-check ## Run every check but the tests
	@$(MAKE) --no-print-directory --keep-going --output-sync=target -j2 $(CHECKS)
	@echo "All checks passed."

bench: ## Measure, and print a table of figures and goals
	@tools/environment.sh demo
	@$(BIN)/kubediffusion bench $(ARGS)

proto: ## Generate the code of the wire
	@tools/environment.sh proto
	@tools/proto.sh generate

reference: ## Bring the tables of docs/reference up to date
	@tools/environment.sh check
	@$(BIN)/python tools/reference.py

clean: ## Remove what the other targets made
	rm -rf .venv .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf build dist site out .bench
	find proto engine worker operator tests tools -name __pycache__ -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the oldest dependencies

# The lower bounds in pyproject.toml are what this installs.
test-lowest: ## Run the unit tests with the oldest dependencies we allow
	@tools/environment.sh proto
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	@$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python \
	  --resolution lowest-direct --group test -e '.[engine,worker]'
	@.venv-lowest/bin/pytest $(or $(ARGS),tests/unit --ignore=tests/unit/project)

# ---------------------------------------------------------------- single checks

CHECKS := check-ruff check-format check-mypy check-pyright check-imports check-wire \
  check-links check-reference check-layout check-package check-shell
.PHONY: $(CHECKS)
$(CHECKS): environment-check

environment-check:
	@tools/environment.sh check

check-ruff:
	$(BIN)/ruff check --quiet

check-format:
	$(BIN)/ruff format --quiet --diff

check-mypy:
	$(BIN)/mypy

check-pyright:
	$(BIN)/pyright --warnings

check-imports:
	$(BIN)/lint-imports --no-logo

check-wire:
	tools/proto.sh lint
	tools/proto.sh breaking
	tools/proto.sh generated

check-links:
	$(BIN)/python tools/check_links.py

check-reference:
	$(BIN)/python tools/reference.py --check

check-layout:
	$(BIN)/pytest --quiet tests/unit/project

check-package:
	$(BIN)/python tools/check_package.py

# shellcheck is used where it is installed; bash itself finds the syntax errors.
check-shell:
	@for file in tools/*.sh .ci/run; do bash -n "$$file" || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck tools/*.sh .ci/run; fi
