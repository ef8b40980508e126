# Set-up happens on first use; every target works from a clean clone with nothing but Python.
VENV ?= .venv
PYTHON ?= python3
PY   := $(VENV)/bin/python
export DAGSTER_HOME ?= $(CURDIR)/dagster_home
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= true

READERS := $(VENV)/readers/.stamp

.PHONY: soak setup readers demo test quick ui lint types bench clean
setup: $(VENV)/.stamp
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else \
	  "Python %d.%d is too old or too new; Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ..." \
	  % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch==2.13.0 uv
	$(PY) -m uv pip install -q --compile-bytecode --python $(PY) -c constraints.txt -e '.[dev]'
	touch $@

readers: $(READERS)    ## public readers of exports, apart from everything else
$(READERS): tests/readers.txt $(VENV)/.stamp
	$(PY) -m uv pip install -q --python $(PY) --no-deps --target $(VENV)/readers -r tests/readers.txt
	touch $@

demo: setup          ## embedded world -> whole line -> table, report, registry
	$(VENV)/bin/latentvla demo
test: setup readers lint types  ## everything CI runs; files of tests are shared out between two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile
quick: setup         ## the inner loop: tests that are neither slow nor a whole line
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m "not slow and not smoke"
lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
types: setup
	$(VENV)/bin/pyright
ui: setup            ## Dagster on :3000, MLflow on :5000, the browser on :8000
	$(PY) -m pipelines.ui
soak: setup            ## what is too dear for every run: services as processes, Ray, two devices, new logs alone, kills and faults
	LATENTVLA_SOAK=1 $(PY) -m pytest tests/pipelines/test_compose_processes.py \
		tests/pipelines/test_engine_ray.py tests/pipelines/test_nights.py \
		tests/pipelines/test_new_logs_alone.py \
		tests/pipelines/test_engines_devices.py tests/core/test_training_devices_models.py
	$(PY) -m benchmarks.soak $$(mktemp -d)/soak
bench: setup
	$(PY) -m benchmarks
clean:
	rm -rf .latentvla dagster_home/history dagster_home/schedules dagster_home/storage
