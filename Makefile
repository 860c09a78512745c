# Every target works in an environment made by the README's test command: make check PY=.venv/bin/python
PY ?= python
BIN = $(dir $(shell command -v $(PY)))

.PHONY: help check lint types layers test slow golden schema
help:            ## show this list
	@grep -E '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed 's/:.*## /: /'
check: lint types layers test  ## what a commit must pass
lint:            ## style and spelling of the code
	$(BIN)ruff check . && $(BIN)ruff format --check .
types:           ## pyright
	$(BIN)pyright --pythonpath $(PY)
layers:          ## imports flow one way
	PYTHONPATH=. $(BIN)lint-imports
test:            ## the tests that a commit must pass
	$(PY) -m pytest -n 2 --dist loadgroup
slow:            ## full lengths: a hundred kills, thousands of bad inputs
	$(PY) -m pytest -m slow --timeout 5400
golden:          ## rewrite the golden loss curves; review the difference
	$(PY) tests/golden/rewrite.py
schema:          ## rewrite the pages of docs/ that are made from the types
	$(PY) -m tuner schema > docs/recipe.schema.json
	$(PY) docs/recipe_page.py > docs/recipe.md
	$(PY) docs/combinations_page.py > docs/combinations.md
	$(PY) docs/formats_page.py > docs/formats.md
