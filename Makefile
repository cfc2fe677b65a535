# make demo | test | check | docs. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test check docs clean

demo: .venv/run
	$(BIN)/autodidact compare opsd grpo sft rft --demo

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not slow"

docs: .venv/dev
	$(BIN)/python -m docs.build

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

.venv/dev: .venv/run
	$(PIP) -e ".[dev,peers]"
	$(PIP) --no-deps liger-kernel  # a peer in benchmarks; with its dependencies comes Triton
	touch $@

clean:
	rm -rf .venv runs build dist
