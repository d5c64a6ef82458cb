# The verbs of this project; `make help` explains them.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready

# Where there is no home to write to, uv caches beside the environment.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export UV_CACHE_DIR := $(CURDIR)/$(VENV)/.uv-cache
endif

# Trust whom the machine trusts, as pip does: behind a company's proxy its own certificate counts.
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := $(READY)
.PHONY: help demo test slow lint lock clean

$(READY): requirements.lock pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	awk '/^uv==/ {p = 1; print; next} /^[^ ]/ {p = 0} p' requirements.lock > $(VENV)/uv.txt
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement $(VENV)/uv.txt
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	touch $(READY)

help: ## say what each verb does
	@echo "make            set up .venv from requirements.lock, and the project itself"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 16

demo: $(READY) ## synthesize a small fleet, train, score and evaluate on it, in demo/
	$(VENV)/bin/ray-asd demo --out demo

test: $(READY) ## run the test suite, all but what takes minutes
	$(VENV)/bin/python -m pytest -m "not faults and not slow"

slow: $(READY) ## run the rest: what trains anew, and what kills processes on purpose
	$(VENV)/bin/python -m pytest -m "faults or slow"

lint: $(READY) ## ruff, mypy, the rules of the house, and the API pages, in site/
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python .ci/api_pages.py site

lock: $(READY) ## pin the dependencies anew
	$(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
		--extra dev --no-emit-index-url --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock

clean: ## remove the environment, the API pages, and what the demo left
	rm -rf $(VENV) site demo
