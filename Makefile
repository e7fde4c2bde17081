# make study            the study of params.yaml, from nothing to the report
# make study STUDY=name the study of studies/name.yaml
# make verdict          the two studies that hold the paper's claim against plain magnitude, and what they say together
# make test             every test        make test-fast   the fast ones, while you work
# make test-gpu         those that need a CUDA GPU, each against the CPU; without one they skip
# make ui               MLflow in a browser
#
# PYTHON    the interpreter that makes .venv (3.11 is tested)
# PIP_ARGS  given to pip; for another build of torch, such as the CPU-only or a CUDA one, name its index here:
#           make study PIP_ARGS='--extra-index-url <address of the index>'
PYTHON ?= python3.11
PIP_ARGS ?=
STUDY ?=
PORT ?= 5000

# DVC runs `python` from PATH: without this it would be another Python.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

.PHONY: study verdict test test-fast test-slow test-gpu lint ui clean

study: .venv/installed
	@python -m flows.local $(if $(STUDY),--study "$(STUDY)")

# What a study finished is kept in finished/, so that each runs again only where its settings or the code changed.
verdict: .venv/installed
	@python -m flows.local --study verdict --no-table
	@python -m flows.local --study verdict-past-best --no-table
	@python -m prunelab verdict

test: .venv/installed lint test-fast test-slow

# One process a core, each computing with one thread: threads that share a core wait for each other. They say what the
# CPU computes, so a GPU is hidden from them.
test-fast: .venv/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m "not slow and not gpu" -n auto --dist loadfile

test-slow: .venv/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m slow -n auto --dist loadfile

# One after the other: they share the card, and some measure on it.
test-gpu: .venv/installed
	python -m pytest -q -m gpu tests/gpu

lint: .venv/installed
	ruff check .
	ruff format --check .
	lint-imports --no-cache

ui: .venv/installed
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT)

# The exact tested versions. The stamp is written last, so that an install that was cut off starts again.
.venv/installed: pyproject.toml constraints.txt
	@"$(PYTHON)" --version >/dev/null 2>&1 || { echo "error: $(PYTHON) not found; install Python 3.11 or say make PYTHON=..."; exit 1; }
	test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev,tasks,recovery,torchao,price,onnx]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache checkpoints
