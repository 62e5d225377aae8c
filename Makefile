# Every target does its whole set-up first: on a fresh machine Python 3.10 or newer (with venv) is all that is needed.
#
#   make demo           see the small Emu2 that ships with the package at work
#   make train-demo     train an even smaller one from nothing             (QUICK=1: a few minutes)
#   make test           lint, types, tests
#   make lint           formatter, linter, type checker
#   make figures        the pictures of the documentation
#   make benchmarks     start-up time, cached roll-out
#   make clean          remove the environment, runs and caches
#
#   PYTHON=python3.12   which interpreter to build the environment with
#   TORCH_INDEX=URL     which package index to take torch from

PYTHON ?=
TORCH_INDEX ?=
QUICK ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

export TORCH_INDEX

.PHONY: help demo train-demo test lint figures benchmarks clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# Built anew when what it should hold has changed; a set-up that was cut short leaves no stamp.
$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV) $(PYTHON)
	@touch $@

demo: $(STAMP)
	$(BIN)/emu2 demo --out demo $(if $(QUICK),--quick)

train-demo: $(STAMP)
	$(BIN)/python -m emu2.recipes.demo $(if $(QUICK),--quick)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests use one torch thread each (tests/conftest.py); side by side they use the cores.
test: lint
	$(BIN)/pytest -n auto

figures: $(STAMP)
	$(BIN)/python docs/figures.py

benchmarks: $(STAMP)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/rollout.py

clean:
	rm -rf $(VENV) build dist demo train-demo runs .pytest_cache .ruff_cache .mypy_cache
	find src tests benchmarks docs scripts -name __pycache__ -type d -prune -exec rm -rf {} +
