# Every step that people and CI take. Needs python3 (3.11, 3.12 or 3.13) and make; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
EXAMPLES ?= 2
FUZZ_SECONDS ?= 20
POINTS ?= 1
POINTS_AT_ONCE ?= 2
RUNTIME := .venv/.runtime-installed
BUILD := .venv/.build-installed
DEV := .venv/.dev-installed
FUZZER := .venv/.fuzzer-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --require-hashes
# A configuration of their own for the checks: whatever this machine has set up does not count.
CHECKS := PORTAL_CONFIG=/dev/null PORTAL_DATA_DIR=$(CURDIR)/.venv/check-data

# Tests that touch no database, or bring their own, or ask nothing of it in which databases differ: once is enough.
ONCE := tests/test_config.py tests/test_docs.py tests/test_imports.py tests/test_supervisor.py tests/test_children.py tests/journeys \
	tests/engines/launchers tests/engines/simulator tests/inference/test_sse.py tests/inference/test_upstream.py \
	tests/fuzz tests/inference/test_front_framing.py tests/inference/test_front_slow.py \
	tests/inference/test_front_smuggling.py tests/inference/test_upstream_pieces.py tests/inference/test_sse_pieces.py \
	tests/inference/test_body.py tests/inference/test_endpoints_streams.py tests/inference/test_endpoints_media.py tests/cli tests/test_compiled.py \
	tests/test_rights.py tests/test_sqlite.py tests/accounts/test_imported_passwords.py tests/engines/downloads tests/engines/fit/test_verdict.py \
	tests/inference/test_pages.py tests/inference/test_replicas.py

# Compiled once, and not again by each of the many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run compiled test test-postgresql test-attack test-points test-real test-browser screenshots fuzz bench lint format requirements clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: $(RUNTIME) compiled  ## install, migrate and start the portal in the foreground; Ctrl-C stops it
	@exec $(BIN)/python manage.py run

compiled: $(BUILD)  ## compile the hot path where there is a C compiler; the portal runs without, too
	@$(BIN)/python -m vllm_portal.compiling

test: lint compiled  ## install and run all tests that this machine can run, on SQLite
	$(BIN)/python -m pytest -q -n 4

test-postgresql: $(DEV)  ## the tests that use a database, on PostgreSQL, with the hot path not compiled
	VLLM_PORTAL_COMPILED=0 $(BIN)/python tests/postgres_server.py $(BIN)/python -m pytest -q -n 4 $(ONCE:%=--ignore=%)

test-attack: $(DEV) compiled  ## generated requests (EXAMPLES=40: over 10,000), counts (REQUESTS=, ROUNDS=), kill -9 while it works (KILLS=, RESTARTS=)
	ATTACK_EXAMPLES=$(EXAMPLES) $(foreach size,REQUESTS ROUNDS LEAVING KILLS RESTARTS,$(if $($(size)),$(size)=$($(size)))) $(BIN)/python -m pytest -q -n 3 tests/attack

test-points: $(DEV) compiled  ## kill -9 at each step of an engine's life, POINTS times, in POINTS_AT_ONCE portals beside each other
	POINTS=$(POINTS) $(BIN)/python -m pytest -q -n $(POINTS_AT_ONCE) --maxschedchunk 1 -p no:randomly tests/attack/test_fail_points.py

fuzz: $(FUZZER)  ## bytes that break a reader of HTTP or of streams: each looked for FUZZ_SECONDS long; Linux on x86-64
	@for target in front head upstream sse; do \
		VLLM_PORTAL_COMPILED=0 FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.fuzz $$target || exit 1; done

lint: $(DEV)  ## what is checked without running the portal
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CHECKS) $(BIN)/python manage.py check --fail-level WARNING
	$(CHECKS) $(BIN)/python manage.py makemigrations --check --dry-run

test-real: $(DEV) compiled  ## the whole way on real vLLM in real containers (REAL_REQUESTS=, REAL_POINTS=); needs root or a Docker daemon
	tests/real/lab/ensure_docker.sh
	tests/real/lab/build_engine_image.sh
	tests/browser/ensure_chromium.sh
	$(foreach size,REAL_REQUESTS REAL_POINTS,$(if $($(size)),$(size)=$($(size)))) $(BIN)/python -m pytest -ra --strict-markers -o addopts="-p no:schemathesis -p no:langsmith_plugin" tests/real

test-browser: $(DEV) compiled  ## the pages in a real Chromium, which is installed where it is missing (root needed)
	tests/browser/ensure_chromium.sh
	$(BIN)/python -m pytest -q -ra -n 2 --dist loadfile --strict-markers -o addopts="-p no:schemathesis -p no:langsmith_plugin" tests/browser

screenshots: $(DEV)  ## each page, light and dark, on desktop and phone, into docs/screens
	tests/browser/ensure_chromium.sh
	$(BIN)/python -m tests.browser.screenshots docs/screens

bench: $(RUNTIME) compiled  ## what the portal costs beside nginx, vllm-router, LiteLLM; writes docs/performance.md
	$(BIN)/python -m bench

format: $(DEV)  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make requirements"

requirements:  ## pin the newest versions that *.in allow; needs uv
	$(COMPILE) --upgrade requirements/runtime.in -o requirements.txt
	$(COMPILE) --upgrade requirements/build.in -o requirements/build.txt
	$(COMPILE) --upgrade requirements/dev.in -o requirements/dev.txt
	$(COMPILE) --upgrade requirements/fuzz.in -o requirements/fuzz.txt

clean:  ## forget the virtual environment and caches; data in ./var stays
	rm -rf .venv .compiled .pytest_cache .ruff_cache .import_linter_cache .hypothesis bench/.build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "$(PYTHON) is `$(PYTHON) --version 2>&1`, and the portal needs Python 3.11, 3.12 or 3.13:" \
			"make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(RUNTIME): requirements.txt | .venv/bin/python
	@echo "installing into .venv (only the first time)"
	$(PIP) -r requirements.txt
	@touch $@

$(BUILD): requirements/build.txt $(RUNTIME)
	$(PIP) -r requirements/build.txt
	@touch $@

$(DEV): requirements/dev.txt $(RUNTIME)
	$(PIP) -r requirements/dev.txt
	@touch $@

$(FUZZER): requirements/fuzz.txt $(DEV)
	$(PIP) -r requirements/fuzz.txt
	@touch $@
