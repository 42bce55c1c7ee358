# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
FOLDGATE := $(BIN)/foldgate
PROFILE ?= demo
STUDY ?=
DATA ?=
HOST ?= 127.0.0.1
PORT ?= 3000
UI_HOME = $(STUDY)$(if $(DATA),$(if $(STUDY),_)imported)

.PHONY: demo test ui install lint bench golden clean help

help:            ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(VENV)/.installed  ## a virtual environment with the pinned lock

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install    ## whole graph: simulated market, or DATA=<folder of vendor tables>; STUDY=<name> chooses a study
	$(FOLDGATE) demo --profile $(PROFILE) $(if $(STUDY),--study $(STUDY)) $(if $(DATA),--data "$(DATA)")

ui: install      ## the Dagster UI on the demo (or DATA's, STUDY's) environment, loopback only
	$(FOLDGATE) ui --host $(HOST) --port $(PORT) $(if $(DATA)$(STUDY),--home dagster_home/$(UI_HOME))

test: install lint  ## everything that must pass
	$(BIN)/pytest -n 2 --dist loadgroup

lint: install    ## style, types, import floors
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install   ## every benchmark: checks equality, then prints the ratio
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

golden: install  ## rewrite the golden files after a change that is meant
	FOLDGATE_UPDATE_GOLDEN=1 $(BIN)/pytest tests/golden

clean:           ## remove the environments' data, keep the code
	rm -rf dagster_home/*/ .pytest_cache .mypy_cache .ruff_cache
