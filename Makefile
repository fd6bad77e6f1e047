# make demo: the main job on the embedded cloud.  make test: the tests that wait on nothing.
PYTHON ?= python3
export PYTHON
unexport PYTHONDONTWRITEBYTECODE # hundreds of the tests start a process of the tool: compiled modules save it a second each
VENV := .venv
BIN := $(VENV)/bin
DEMO_EXTRAS := train,local,report
SLOW_WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)# the slow tests mostly wait for other processes
EXPORT_PACKAGES = ipykernel $(shell grep -E '^(mlflow-skinny|wandb)==' constraints.txt)
ALL_EXTRAS := train,data,fast,figures,report,deadline,dashboard,tensorboard,local,docs,dev

.PHONY: setup demo test test-all test-examples test-exports test-oldest-torch lint docs reference recording pictures clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@.ci/install $(ALL_EXTRAS)
	@$(BIN)/python -m pytest --collect-only -q >/dev/null || true  # the tests are compiled once, not by each worker
	@$(BIN)/python -m tests.support.precompile || true  # and numba's functions
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

$(VENV)/.installed-demo: pyproject.toml constraints.txt
	@.ci/install $(DEMO_EXTRAS)
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt
	@.ci/install docs
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/pixel-orch launch --cloud local --instance p2.xlarge --spot -y --interrupt-after 20
	@$(BIN)/pixel-orch report --html demo.html  # what the page shows: prices, the learning curve, the samples as they grew

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(if $(TESTED),setup,test)# TESTED=1: the quick ones have just run
	$(BIN)/python -m pytest -m slow -n $(SLOW_WORKERS) --dist loadfile --no-loadscope-reorder --durations 25

test-examples: setup  # transformers, lightning and papermill are installed in an environment of their own
	PIXEL_ORCH_TEST_EXAMPLES=1 $(BIN)/python -m pytest -m 'slow or not slow' -n auto tests/scenarios/test_examples.py tests/scenarios/test_group_examples.py

test-exports: setup  # the trackers and a notebook's kernel are installed in an environment of their own
	python=$$($(BIN)/python -m tests.support.own_packages exports $(EXPORT_PACKAGES)) && \
	$$python -m pytest -m 'slow or not slow' tests/unit/export tests/scenarios/test_notebook.py

test-oldest-torch: setup  # the quick tests of model/ on torch 2.0.1, in an environment of its own: 5 GB, not in CI
	python=$$($(BIN)/python -m tests.support.oldest_torch) && \
	PYTHONPATH=. $$python -m pytest -n auto --dist loadfile tests/unit/model

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  # build/docs/index.html: the site, all of it offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

reference: setup  # docs/reference/ from the parsers, the models and the docstrings
	$(BIN)/python -m docs.make_reference

recording: setup  # docs/images/demo.svg, from the demo in a terminal
	$(BIN)/python -m docs.record_demo

pictures: setup  # docs/images/ of the bundled model, from four short trainings: about seven minutes of one core
	$(BIN)/python -m docs.make_model_pictures

clean:
	rm -rf $(VENV) build *.egg-info
