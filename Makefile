# Everything runs in .venv, which the first command that needs it makes. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
CONSTRAINTS := constraints.txt
EXTRAS := dev

.PHONY: demo deploy test test-lowest test-prefect-3.8 field-before kill-test coverage check check-pyright release-check format verify-corpus bench docs build clean

# The main job: a portrait speaks a recording, on a real Prefect server, against the simulator. KEEP=1 leaves both up.
demo: $(INSTALLED)
	$(BIN)/prefect-genmedia demo $(if $(KEEP),--keep)

# Blocks, work pool, limits, deployments and automations, to the server in PREFECT_API_URL. ARGS="--check" only looks.
deploy: $(INSTALLED)
	$(BIN)/prefect-genmedia deploy $(ARGS)

# Everything, in two processes; which files go together is said in tests/conftest.py.
# ARGS="tests/unit/core/test_errors.py -k pickle" runs a part.
test: $(READY)
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -n 2 --dist loadfile
endif

# The tests as above, with the share of lines and branches that they execute; a page is in build/coverage/html.
# A target of its own: tracing takes up to half more CPU time (on Python 3.14 and later less, by sys.monitoring).
# What runs in child processes (flow runs, workers, decoders) is not counted.
COVERAGE := build/coverage
coverage: $(READY)
	rm -rf $(COVERAGE) && mkdir -p $(COVERAGE)
	$(BIN)/coverage run -m pytest $(or $(ARGS),-m "not server")
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --directory $(COVERAGE)/html
	$(BIN)/coverage report --format=total

# The oldest Python and the oldest packages that pyproject.toml allows. ARGS as above, -m "not server" for nearly all.
LOWEST := unit integration/core/test_paid_once.py integration/inputs/test_inputs.py integration/inputs/test_inputs_s3.py \
          integration/inputs/test_preflight.py integration/providers/test_conformance.py \
          prefect/test_flows_surface.py
test-lowest:
	$(MAKE) test VENV=.venv-lowest PYTHON=$(or $(LOWEST_PYTHON),python3.10) CONSTRAINTS=constraints-lowest.txt \
	    EXTRAS=test,parquet,s3 ARGS='$(or $(ARGS),-n 2 --dist loadfile $(addprefix tests/,$(LOWEST)))'
	.venv-lowest/bin/prefect-genmedia demo

# Which cases of tests/integration/field fail with an earlier version: a wheel of that commit, in an environment of its own.
FIELD_BEFORE ?= 8cc8e6b3057aea938fa421b23235095f17227b61
BEFORE := build/field-before
field-before: $(READY)
	rm -rf $(BEFORE) && mkdir -p $(BEFORE)/source
	git archive $(FIELD_BEFORE) | tar -x -C $(BEFORE)/source
	$(PYTHON) -m venv $(BEFORE)/venv
	SETUPTOOLS_SCM_PRETEND_VERSION=0.0.1 $(BEFORE)/venv/bin/pip wheel --quiet --no-deps --wheel-dir $(BEFORE) $(BEFORE)/source
	$(BEFORE)/venv/bin/pip install --quiet --constraint $(CONSTRAINTS) "$$(ls $(BEFORE)/*.whl)[test,parquet,s3]"
	rm -rf $(BEFORE)/source/src
	$(BIN)/python tests/integration/field/before.py "$(CURDIR)/$(BEFORE)/venv/bin/python" "$(CURDIR)/$(BEFORE)/source"

# What depends on Prefect, on the oldest version that is supported; everything else is as in constraints.txt. ARGS as above.
OLDER := .venv-prefect-3.8
SURFACE := test_flows_surface test_own_flows test_ask test_suspend test_suspending_flows test_long_pauses test_retries \
           test_waiting_for_limits test_deployments test_deploy_command test_workers test_blocks_standard \
           test_known_failures
test-prefect-3.8: $(OLDER)/constraints.txt
	$(MAKE) test VENV=$(OLDER) CONSTRAINTS=$< EXTRAS=test,parquet,s3 \
	    ARGS='$(or $(ARGS),-n 2 --dist loadfile $(SURFACE:%=tests/prefect/%.py) tests/docs/test_first_hour.py)'

$(OLDER)/constraints.txt: constraints.txt
	mkdir -p $(OLDER)
	sed 's/^prefect==.*/prefect==3.8.8/' $< >$@

# A thousand runs that are killed, stopped, cut off, re-keyed or set to another time, and go on until they end: who paid
# what is counted by the simulator. Writes bench-output/kill-test.json. SEED repeats a plan, KILLS=50 is a short one.
KILLS ?= 1000
kill-test: $(READY)
	$(BIN)/python tests/support/kill_storm.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# Damaged videos by the thousand: whether `structure` says of each what `full` says. Writes bench-output/verify-corpus.json.
FILES ?= 1200
verify-corpus: $(READY)
	$(BIN)/python tests/support/structure_corpus.py --files $(FILES) $(if $(SEED),--seed $(SEED))

# The whole package under the names that users know, flows included: what reads files cannot see into an editable install.
AS_INSTALLED := $(VENV)/as-installed
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	rm -rf $(AS_INSTALLED) && mkdir -p $(AS_INSTALLED)/prefect_genmedia
	ln -s "$(CURDIR)"/src/prefect_genmedia/* "$(CURDIR)"/flows "$(CURDIR)"/deployments $(AS_INSTALLED)/prefect_genmedia
	ln -s "$(CURDIR)"/blocks $(AS_INSTALLED)/prefect_genmedia/block_documents
	MYPYPATH=$(AS_INSTALLED) $(BIN)/mypy --config-file= --strict --follow-imports=silent --cache-dir .mypy_cache/user tests/support/user_code.py tests/support/user_code_sync.py
	PYTHONPATH=$(AS_INSTALLED) $(BIN)/lint-imports --no-cache
	$(BIN)/pytest --noconftest tests/docs/test_docstrings.py

# The same code by another type checker, in an environment of its own. Run `make check` before: it links the package.
check-pyright: $(READY)
	$(PYTHON) -m venv .venv-pyright
	.venv-pyright/bin/pip install --quiet --disable-pip-version-check 'basedpyright==1.40.2'
	printf '{"include": ["%s"], "extraPaths": ["%s"], "venvPath": "%s", "venv": "%s", "typeCheckingMode": "strict"}' \
	    "$(CURDIR)/tests/support/user_code_sync.py" "$(CURDIR)/$(AS_INSTALLED)" "$(CURDIR)" "$(VENV)" >.venv-pyright/config.json
	.venv-pyright/bin/basedpyright -p .venv-pyright/config.json

# Every benchmark; BENCH=batch for one of them. Each writes its figures to bench-output/; the last line writes those of
# `batch` into docs/performance.md. JOBS=200 is quick; CLIPS=flat,ordinary and GATES=50 choose; PEERS="bare;batch" too.
BENCH ?= batch polling download overhead ledger tables rerun
JOBS ?= 1000
DBOS := build/dbos
bench: $(READY) $(DBOS)/.ready
	for name in $(BENCH); do echo "== $$name" && \
	    JOBS=$(JOBS) GATES=$(GATES) CLIPS=$(CLIPS) PEERS="$(PEERS)" $(BIN)/python benchmarks/$$name.py || exit; done
	$(BIN)/python benchmarks/report.py

# A peer of the benchmark, in an environment of its own: nothing else needs it.
$(DBOS)/.ready:
	$(PYTHON) -m venv $(DBOS)
	$(DBOS)/bin/pip install --quiet --disable-pip-version-check dbos==3.4.0 httpx==0.28.1
	touch $@

docs: $(READY)
	$(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What an earlier build left would be packed again.
build: $(BIN)/python
	rm -rf build
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# What is about to be published: the archives and their contents, metadata, documents, links, version, licences, SBOM.
# The SBOM and the table of licences are written to build/release/.
release-check: $(READY)
	$(BIN)/pytest tests/docs/test_repository.py tests/docs/test_docs.py \
	    tests/docs/test_packaging.py::test_the_wheel_has_every_module_and_asset_and_nothing_else \
	    tests/docs/test_packaging.py::test_the_source_archive_has_what_the_wheel_is_built_from_and_nothing_else \
	    tests/docs/test_packaging.py::test_no_cache_no_machine_and_no_key_is_in_what_is_published \
	    tests/docs/test_packaging.py::test_the_metadata_is_complete \
	    tests/docs/test_packaging.py::test_the_command_and_prefects_entry_point_are_declared
	$(BIN)/python .ci/release_check.py

clean:
	rm -rf $(VENV) .venv-lowest .venv-pyright $(OLDER) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The package as its users have it; the tools of those who change it come on top.
$(INSTALLED): pyproject.toml setup.py $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable .
	touch $@

$(READY): pyproject.toml setup.py $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@ $(INSTALLED)
