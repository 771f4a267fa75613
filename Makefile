# Everything runs in .venv, which the first command that needs it makes. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test kill-test check format bench build clean

# The main job: a portrait speaks a recording, on a real Prefect server, against the simulator. KEEP=1 leaves both up.
demo: $(READY)
	$(BIN)/prefect-genmedia demo $(if $(KEEP),--keep)

test: $(READY)
	$(BIN)/pytest $(ARGS)

# A thousand kills of a running flow, each followed by a retry.
kill-test: $(READY)
	GENMEDIA_KILLS=1000 $(BIN)/pytest -s tests/test_sigkill.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(READY)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
