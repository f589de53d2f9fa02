# make demo | make test | make help. Each target installs what it needs, once; a second run is fast.
PYTHON ?= python3
MODEL ?= models/f-light-x4
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find app include src cmake test python -type f ! -name '*.pyc' 2>/dev/null) CMakeLists.txt otb-module.cmake pyproject.toml
export OTBSR_BUILD_TESTING := ON
export OTBSR_PYTHON := $(CURDIR)/$(BIN)/python
export TF_CPP_MIN_LOG_LEVEL := 2

.DEFAULT_GOAL := help
.PHONY: help install bindings tutorial demo docs test test-all test-qgis browser qgis test-sanitized test-threads fuzz lint format benchmark clean audit

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.system: tools/system-packages.sh
	@sh tools/system-packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot create a virtual environment: install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.requirements: $(VENV)/.system pyproject.toml constraints.txt
	@echo "installing Python packages into $(VENV) (TensorFlow is about 270 MB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt scikit-build-core setuptools-scm ninja
	@$(BIN)/python tools/requirements.py cpu test view cluster > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(VENV)/requirements.txt
	@# Keras 2, for SavedModels as it writes them; without its dependencies: it asks for tensorflow, which would overwrite tensorflow-cpu
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt tf-keras
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements $(SOURCES)
	@echo "compiling the OTB applications and installing otbsr into $(VENV) (some minutes the first time)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall . ./python/otbtf
	@touch $@

install: $(VENV)/.installed ## compile and install into .venv
	@echo "otbsr is installed in $(VENV): type . $(BIN)/activate, then otbsr --help"

$(VENV)/.bindings: $(VENV)/.requirements tools/bindings/build.py tools/bindings/CMakeLists.txt
	@sh tools/system-packages.sh libotb-dev libboost-filesystem-dev libboost-serialization-dev cmake g++ python3-dev swig
	@$(BIN)/python tools/bindings/build.py --work build-bindings
	@# without its dependencies: it asks for a NumPy older than 2, but works with 2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt pyotb
	@touch $@

bindings: $(VENV)/.bindings ## OTB's own Python bindings and pyotb, into .venv (Debian's OTB comes without them; downloads 700 MB)

demo: install ## simulate a landscape, super-resolve it, classify it, write the report
	@$(BIN)/otbsr simulate demo/world --seed 7
	@$(BIN)/otbsr study demo/world --model $(MODEL) --out demo/study --folds 3 --repeats 2

$(VENV)/.docs: $(VENV)/.requirements
	@$(BIN)/python tools/requirements.py docs > $(VENV)/docs.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(VENV)/docs.txt
	@touch $@

docs: install $(VENV)/.docs ## the documentation's site in site/; stops at a broken link
	@$(BIN)/python tools/docs.py
	@echo "with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8000, then http://127.0.0.1:8000/"

test: install browser qgis $(VENV)/.docs ## the tests that CI runs (ctest: C++ and Python)
	@cd build && ctest --output-on-failure

browser: # the report is opened in a real one; without it these tests are skipped
	@sh tools/system-packages.sh chromium || echo "without chromium the report's browser tests are skipped"

qgis: # 800 MB, about a minute and a quarter; our applications are run in a real one; without it these tests are skipped
	@sh tools/system-packages.sh qgis python3-qgis || echo "without QGIS the tests in it are skipped"

test-qgis: install qgis ## only the tests in QGIS
	@OTBSR_APPLICATIONS=$(CURDIR)/build/applications $(BIN)/python -m pytest -q test/python/qgis

test-all: install browser qgis $(VENV)/.docs ## also the tests that take longer
	@cd build && ctest --output-on-failure -E '^pytest$$'
	@OTBSR_APPLICATIONS=$(CURDIR)/build/applications $(BIN)/python -m pytest -q -m 'slow or not slow'

test-sanitized: $(VENV)/.requirements fuzz ## the C++ under AddressSanitizer and UndefinedBehaviourSanitizer, and `make fuzz`
	@sh tools/test-sanitized.sh build-sanitized $(BIN)/python

test-threads: $(VENV)/.requirements ## the C++ under ThreadSanitizer, where several threads are at work
	@sh tools/test-sanitized.sh build-threads $(BIN)/python thread

fuzz: ## libFuzzer on the parsers of model files, FUZZ_SECONDS=60 in all
	@sh tools/system-packages.sh clang libclang-rt-dev
	@$(PYTHON) tools/fuzz.py --seconds $(FUZZ_SECONDS) --build build-fuzz

$(VENV)/.lint: $(VENV)/.requirements
	@$(BIN)/python tools/requirements.py lint > $(VENV)/lint.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(VENV)/lint.txt
	@touch $@

CXX_FILES = $(wildcard include/*.h include/*.hxx src/*.cxx app/*.cxx test/*.cxx test/fuzz/*.cxx)
PY_DIRS = python test/python benchmark tools $(wildcard data)

lint: $(VENV)/.lint ## clang-format, ruff, mypy: fails on any finding
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	@$(BIN)/ruff format --check --quiet $(PY_DIRS) && $(BIN)/ruff check --quiet $(PY_DIRS)
	@$(BIN)/mypy

audit: $(VENV)/.system ## the pinned Python packages against known vulnerabilities; passes, and says so, where the database is out of reach
	@$(BIN)/python tools/requirements.py audit > $(VENV)/audit.txt
	@test -x $(VENV)/audit/bin/pip-audit || $(BIN)/python -m venv $(VENV)/audit
	@test -x $(VENV)/audit/bin/pip-audit || timeout 180 $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(VENV)/audit.txt || echo "pip-audit cannot be installed"
	@timeout 300 $(BIN)/python tools/audit.py --program $(VENV)/audit/bin/pip-audit --seconds 120

format: $(VENV)/.lint ## rewrite the sources as `make lint` wants them
	@$(BIN)/clang-format -i $(CXX_FILES)
	@$(BIN)/ruff format --quiet $(PY_DIRS) && $(BIN)/ruff check --quiet --fix $(PY_DIRS)

tutorial: install ## execute doc/tutorial.ipynb and write its outputs into it
	@$(BIN)/python tools/tutorial.py

benchmark: install ## SuperResolution against TensorFlow alone
	@$(BIN)/python benchmark/serving.py

clean: ## remove everything that make made
	rm -rf $(VENV) build build-sanitized build-threads build-fuzz build-docs build-bindings demo site
