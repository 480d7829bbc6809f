# Everything runs in $(VENV), which is set up on the first call and again when an input of it changes.
PYTHON ?= python3
DETECTRON2 ?= pypi
DETECTRON2_GIT ?=
VENV ?= .venv

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.d2kd-stamp
CHOICES := $(CURDIR) $(PYTHON) $(DETECTRON2) $(DETECTRON2_GIT)

.PHONY: help venv test test-faults reproduce-check test-lowest test-wheel gpu-check quickstart quickstart-teacher lint docs clean FORCE
.DEFAULT_GOAL := help

help:
	@echo 'make quickstart          distil a small detector on the CPU'
	@echo 'make quickstart-teacher  the same, training its teacher first'
	@echo 'make test                run the tests'
	@echo 'make test-faults         kills, broken files and configs, in full (an hour or more)'
	@echo 'make reproduce-check     every published pair, with two steps a stage (half an hour)'
	@echo 'make test-lowest         losses, heads, checkpoints and resuming on the lowest versions in setup.py'
	@echo 'make test-wheel          build a wheel and try it in an empty environment (5 minutes)'
	@echo 'make gpu-check           on a machine with a GPU: what only one can show, in ten minutes (DEVICE=cpu rehearses it)'
	@echo 'make lint                check style, formatting, types and the floors of the package'
	@echo 'make docs                build the documentation into docs/_build/html'
	@echo 'make venv                only set up $(VENV)'
	@echo 'make clean               remove caches and build folders ($(VENV) and output/ stay)'
	@echo
	@echo 'PYTHON=$(PYTHON)  a Python 3.10 to 3.13; a Detectron2 that it has is used as it is'
	@echo 'DETECTRON2=$(DETECTRON2)  otherwise: pypi (a wheel, Python files only) or git (source, compiled)'
	@echo 'DETECTRON2_GIT=URL@COMMIT  another source for DETECTRON2=git'

# The stamp holds the choices it was made with; others make it out of date.
ifneq ($(strip $(shell cat '$(STAMP)' 2>/dev/null)),$(strip $(CHOICES)))
$(STAMP): FORCE
endif
$(STAMP): tools/setup_env.py tools/bounds.py setup.py $(wildcard requirements/*.txt)
	$(PYTHON) tools/setup_env.py --venv '$(VENV)' --detectron2 '$(DETECTRON2)' --git '$(DETECTRON2_GIT)'
	@echo '$(CHOICES)' > $@

venv: $(STAMP)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

test-faults: $(STAMP)
	D2KD_FAULTS=full OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/faults tests/engine/hooks/test_exact_resume.py tests/engine/hooks/test_gradient_guard.py \
		tests/test_gpu_check.py tests/device tests/export tests/reproduce tests/teachers/test_photograph.py tests/cli/test_every_source.py

# Needs coco/ in DETECTRON2_DATASETS; a part of it will do.
reproduce-check: $(STAMP)
	$(RUN) -m d2kd reproduce --dry-run --output output/reproduce_check

# In an environment of its own: .venv-lowest, for a Python 3.10 to 3.12.
LOWEST := $(VENV)-lowest
test-lowest:
	$(PYTHON) tools/setup_env.py --venv '$(LOWEST)' --lowest
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q tests/losses tests/heads tests/checkpoint \
		tests/faults/test_broken_checkpoints.py tests/engine/hooks/test_exact_resume.py tests/engine/test_old_runs.py

quickstart: $(STAMP)
	$(RUN) -m d2kd.quickstart

quickstart-teacher: $(STAMP)
	$(RUN) -m d2kd.quickstart --rebuild-teacher

test-wheel: $(STAMP)
	$(RUN) tests/wheel/try_wheel.py

DEVICE ?= cuda
gpu-check: $(STAMP)
	$(RUN) benchmarks/gpu_check.py --device '$(DEVICE)'

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

docs: $(STAMP)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements/docs.txt
	$(RUN) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo 'docs/_build/html/index.html'

clean:
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find d2kd tests tools datasets -name __pycache__ -type d -prune -exec rm -rf {} +
