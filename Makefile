# Everything runs in .venv, which the first command that needs it makes. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo deploy test kill-test check format bench bench-ledger docs build clean

# The main job: a portrait speaks a recording, on a real Prefect server, against the simulator. KEEP=1 leaves both up.
demo: $(READY)
	$(BIN)/prefect-genmedia demo $(if $(KEEP),--keep)

# Blocks, work pool, limits, deployments and automations, to the server in PREFECT_API_URL. ARGS="--check" only looks.
deploy: $(READY)
	$(BIN)/prefect-genmedia deploy $(ARGS)

# Everything: first what shares two processes, then one by one what starts servers and workers and kills them.
# ARGS="tests/test_errors.py -k pickle" runs a part.
test: $(READY)
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -n 2 --dist loadfile -m "not server"
	$(BIN)/pytest -m server
endif

# A thousand kills of a running flow, each followed by a retry.
kill-test: $(READY)
	GENMEDIA_KILLS=1000 $(BIN)/pytest -s tests/test_sigkill.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Batches against a bare script and a naive version, in processes of their own; JOBS=200 for a quick one.
bench: $(READY)
	$(BIN)/python benchmarks/batch.py --jobs $(or $(JOBS),1000)

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench-ledger: $(READY)
	$(BIN)/python benchmarks/ledger.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What an earlier build left would be packed again.
build: $(READY)
	rm -rf build
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
