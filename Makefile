# make demo   phantom, teacher, control and distilled student, export, prediction, report
# make test   every gate: style, types, imports, file length, tests
# The other slow tests: .venv/bin/pytest -m slow
# Both set up a virtual environment by themselves; PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -type f -not -name '*.pyc') pyproject.toml
DEMO ?= demo
STUDY ?= studies/demo.yaml
PATIENTS ?= 24
SIZE ?= 160
SLICES ?= 40

.PHONY: demo test setup check-style check-types check-imports check-length pytest clean

demo: $(VENV)/.installed
	$(BIN)/medstill phantom $(DEMO)/data --patients $(PATIENTS) --size $(SIZE) --slices $(SLICES)
	$(BIN)/medstill run $(STUDY) --data $(DEMO)/data --out $(DEMO)/run
	$(BIN)/medstill predict $(DEMO)/run/models/compact.onnx \
		$(DEMO)/data/imagesTr/phantom_000.nii.gz $(DEMO)/phantom_000_labels.nii.gz --overwrite

test: check-style check-types check-imports check-length pytest
	@echo "all gates passed"

setup: $(VENV)/.installed $(VENV)/.dev

check-style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/mypy

check-imports: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/lint-imports --no-cache

check-length: $(VENV)/.dev
	$(BIN)/python scripts/check_length.py

pytest: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/pytest -q -n auto -m "not slow"
	$(BIN)/pytest -q tests/slow/test_demo.py -k smallest

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("medstill needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.libraries: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python scripts/install.py runtime
	@touch $@

$(VENV)/.dev: $(VENV)/.libraries
	$(BIN)/python scripts/install.py dev
	@touch $@

$(VENV)/.installed: $(VENV)/.libraries $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
