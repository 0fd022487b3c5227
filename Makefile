# Each target installs what is missing into VENV first.
#   make run ARGS="seed=1"    one job        make test     all tests        make lint      what CI checks of the style
#   make quick                pytest, which leaves out the slow ones        make format    style mended where it can be
#   make coverage             all tests, and which lines they reach         make lock      requirements.lock anew
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
EXTRAS ?=    # optional requirements, as in `make test EXTRAS="lora"`

.PHONY: run test quick coverage format lint lock clean

run: $(VENV)/installed
	$(VENV)/bin/python run.py $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m "" $(ARGS)

quick: $(VENV)/installed
	$(VENV)/bin/python -m pytest $(ARGS)

coverage: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m "" --cov $(ARGS)

format: $(VENV)/installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Needs uv. The hashes are those of PyPI's files; where another build of torch is wanted, as the one for CPUs alone,
# install it first: pip then takes `torch` of the lock as satisfied.
lock:
	uv pip compile requirements.txt --universal --python-version 3.11 --generate-hashes --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
		$(foreach extra,$(EXTRAS),-r requirements-$(extra).txt)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf artifacts outputs
