# oops-celery: error reports carried by Celery. `make help` says what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What it takes to run a worker and the examples; and the tests.
BASE := $(VENV)/.base
READY := $(VENV)/.ready
OLD := $(VENV)/oops-amqp
TESTS ?= tests --ignore tests/faults
SECONDS ?= 600
RUNS ?= 20
LOSSES ?= 12

.DEFAULT_GOAL := help
.PHONY: help run fail test test-long test-faults test-protections soak soak-losses memory matrix bench lint worker flower wheel clean setup rabbitmq postgresql chromium screenshots

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

run: $(BASE)  ## See it work: errors raised, reported, kept and shown; Ctrl-C ends it
	@$(BIN)/python -m examples.tour

fail: $(BASE)  ## Fail once more, while `make run` runs in another terminal
	@$(BIN)/python -m examples.shop

test: $(READY) rabbitmq postgresql chromium  ## Run the tests, against private RabbitMQ nodes
	$(BIN)/python -m pytest $(TESTS) -m "not long" $(OPTIONS)

test-long: $(READY) rabbitmq postgresql  ## Run the long ones: other pools and programs, installs, restarts
	$(BIN)/python -m pytest $(TESTS) -m long $(OPTIONS)

test-faults: $(READY) rabbitmq postgresql  ## Run the tests that kill, freeze and fill up what there is
	$(BIN)/python -m pytest tests/faults $(OPTIONS)

test-protections: $(READY) rabbitmq  ## Take out each protection: its tests must fail; ONLY=confirm
	@exec $(BIN)/python -m tests.faults.protections --only "$(ONLY)"

soak: $(READY) rabbitmq  ## Have faults at random, and count the reports: SECONDS=600 SEED=1
	@exec $(BIN)/python -m tests.faults.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

soak-losses: $(READY) rabbitmq  ## Lose connections again and again: RUNS=200 LOSSES=12 SEED=1
	@exec $(BIN)/python -m tests.faults.losses --runs $(RUNS) --losses $(LOSSES) --seed $(or $(SEED),1) $(OPTIONS)

memory: $(READY) rabbitmq  ## Measure the worker's memory, over 100,000 reports
	@exec $(BIN)/python -m tests.faults.memory

matrix: $(READY) rabbitmq postgresql  ## Test other versions of Celery, Python and RabbitMQ: CELLS="python-3.12 table"
	@$(BIN)/nox --noxfile noxfile.py $(if $(CELLS),-s $(foreach cell,$(CELLS),"$(cell)"))

bench: $(READY) $(OLD)/.ready rabbitmq  ## Measure against oops-amqp and the limits: BENCH="--only publishing"
	@$(BIN)/python -m benchmarks --old-python $(OLD)/bin/python $(BENCH)

lint: $(READY)  ## Check style, types, and that no wing imports upwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

worker: $(BASE)  ## Run a worker (RABBITMQ_URL says where the broker is)
	$(BIN)/celery -A oops_celery worker --loglevel INFO

flower: $(BASE)  ## Watch the reports on http://localhost:5555
	$(BIN)/celery -A oops_celery flower

wheel: $(READY)  ## Build dist/celery_oops-VERSION-py3-none-any.whl, to install elsewhere
	@$(BIN)/python -m build --wheel --outdir dist .

screenshots: $(READY) rabbitmq chromium  ## Take those of the docs again
	SCREENSHOTS=docs $(BIN)/python -m pytest -n 0 tests/journeys/test_flower_browser.py \
		tests/web/test_browser.py

clean:  ## Remove what the other commands made
	rm -rf $(VENV) var build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .nox

setup: $(READY)

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "oops-celery needs Python 3.10 or later; $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV), once; this takes a minute ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[web]' oops-wsgi
	@touch $(BASE)

$(READY): $(BASE)
	@echo "Installing what the tests need, once; this takes a minute or two ..." >&2
	@# pip 25.1 or later knows the dependency groups of pyproject.toml.
	@$(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group dev -e '.[web]'
	@# For the tests, without the package bson that they ask for: PyMongo has that name.
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--no-deps oops-amqp oops-datedir-repo
	@touch $(READY)

$(OLD)/.ready: $(READY)
	@echo "Setting up $(OLD), with oops-amqp as pip installs it ..." >&2
	@$(PYTHON) -m venv $(OLD)
	@$(OLD)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt oops-amqp oops-datedir-repo
	@touch $@

postgresql:
	@tests/install-postgresql

rabbitmq:
	@tests/install-rabbitmq

chromium:
	@tests/install-chromium
	@tests/install-axe
