# Every target is one word for bootstrap.py, which needs nothing but Python 3.11 or newer.
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check axe-all bench faults lock install

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## run the portal and its scheduler with a demo city, http://127.0.0.1:8000 (PORT=8001 changes it)
	@$(PYTHON) bootstrap.py demo

test: ## run the tests (ARGS="tests/scheduler -k name" narrows; STRICT=1 turns a skip into a failure)
	@$(PYTHON) bootstrap.py test $(ARGS)

check: ## ruff, mypy, import contracts, models equal migrations
	@$(PYTHON) bootstrap.py check

axe-all: ## look at every page in both languages and themes on a desk and a phone
	@$(PYTHON) bootstrap.py axe-all $(ARGS)

bench: ## measure (ARGS="-k name" narrows)
	@$(PYTHON) bootstrap.py bench $(ARGS)

faults: ## the fault loops, many rounds (ROUNDS=500 changes how many)
	@$(PYTHON) bootstrap.py faults $(ARGS)

lock: ## renew requirements.txt and tests/requirements.txt (needs uv)
	@$(PYTHON) bootstrap.py lock $(ARGS)

install: ## only make .venv with what the portal needs to run (for a server)
	@$(PYTHON) bootstrap.py install
