# make study            the study of params.yaml, from nothing to the report
# make study STUDY=name the study of studies/name.yaml
# make verdict          the two studies that hold the paper's claim against plain magnitude, and what they say together
# make test             every test        make test-fast   the fast ones, while you work
# make test-services    those with an S3 server, PostgreSQL, MLflow on both, two workers, a browser: it installs them
# make test-chaos       a study killed at ten random moments
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

.PHONY: study verdict test test-fast test-slow test-services test-chaos test-gpu lint ui clean

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
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m "not slow and not gpu and not services and not chaos" \
	    -n auto --dist loadfile

# In the order of tests/conftest.py: xdist by itself would begin with the files of most tests, and end with the longest.
test-slow: .venv/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m slow -n auto --dist loadfile --no-loadscope-reorder

# One after the other: they share the card, and some measure on it.
test-gpu: .venv/installed
	python -m pytest -q -m gpu tests/gpu

test-services: .venv/services
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m services

test-chaos: .venv/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 python -m pytest -q -m chaos

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

# What the tests of services start. PostgreSQL comes from the system's packages: Debian's, where it is not there yet.
.venv/services: .venv/installed
	.venv/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[services]'
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } || \
	    { echo "error: PostgreSQL is not installed: install it with the system's packages, then start again"; exit 1; }
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	    echo "Chromium is not installed: the tests of pages are left out"
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache checkpoints
