# `make demo` and `make test` do all the set-up they need (setup.sh) and take it as done the next time.
# The interpreter can be chosen: make PYTHON=python3.12. More arguments go on: make test ARGS="-k ring", make demo ARGS="--seed 1".

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo browser test chaos study-quick lint types test-gpu clean distclean

export PYTHON
bin := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## system packages, virtual environment, pinned packages
	@./setup.sh

demo: setup ## render a data set, train on it, evaluate, draw: about a minute on 2 cores
	@$(bin)/python run.py demo $(ARGS)

browser: setup ## Chromium, in which the tests open the pages of `viewmill report`
	@./setup.sh browser

test: browser lint types ## lint, types and every test that needs no GPU, two files at a time
	@OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-gpu: setup ## the tests that need a CUDA device, with a report of each
	@$(bin)/python -m pytest -m gpu -rA $(ARGS)

chaos: setup ## kill, fill, flood, and real data by the ten thousand: the tests that take minutes
	@$(bin)/python -m pytest -m chaos -rA $(ARGS)

study-quick: setup ## three methods, two seeds, on rendered figures, into runs/quick: under ten minutes on 2 cores
	@$(bin)/python run.py study studies/quick.toml --results runs/quick/quick.jsonl $(ARGS)

lint: setup ## ruff, codespell, shellcheck, hadolint
	@$(bin)/ruff check --quiet
	@$(bin)/ruff format --check --quiet
	@$(bin)/codespell
	@$(bin)/shellcheck setup.sh .ci/run
	@$(bin)/hadolint Dockerfile
	@echo "lint                    clean"

types: setup ## basedpyright
	@mkdir -p .make/packages && ln -sfn ../.. .make/packages/viewmill  # where scripts that import viewmill.* are looked up
	@$(bin)/basedpyright

clean: ## remove what builds and tests leave; runs and the virtual environment stay
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	@rm -rf .venv .make
