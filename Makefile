# `make run` and `make test` install what is missing into VENV first. `make test` runs the slow tests, too.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
EXTRAS ?=    # optional requirements, as in `make test EXTRAS="lora"`

.PHONY: run test format lint clean

run: $(VENV)/installed
	$(VENV)/bin/python run.py $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m "" $(ARGS)

format: $(VENV)/installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
		$(foreach extra,$(EXTRAS),-r requirements-$(extra).txt)
	touch $@

clean:
	rm -rf artifacts outputs
