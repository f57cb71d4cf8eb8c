# Shortcuts; `.ci/run` is what decides.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv test slow lint format schema bench

venv: $(BIN)/pywatt-host

$(BIN)/pywatt-host: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c tests/constraints.txt -e '.[check]' -r benchmarks/requirements.txt
	touch $@

test: venv
	$(BIN)/pytest

slow: venv
	$(BIN)/pytest -m slow -n 0

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: venv
	$(BIN)/python -m pywatt_host.manifest.schema.json_schema > schemas/pywatt.schema.json.new
	mv schemas/pywatt.schema.json.new schemas/pywatt.schema.json
	$(BIN)/python -m pywatt_host.manifest.schema.json_schema workspace > schemas/wattson.schema.json.new
	mv schemas/wattson.schema.json.new schemas/wattson.schema.json

bench: venv
	$(BIN)/python -m benchmarks all
