# Every target sets up what it needs; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
DETECTRON2_SRC ?=
DEMO_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
SLOW_ARGS ?= -n 2 --dist loadfile
ITERATIONS ?= 1600
COMPARE_ARGS ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# What the compiled operator is built from.
OPERATOR := ops/build_extensions.py ms_detr/cuda_toolkit.py $(wildcard ops/csrc/*.* ops/csrc/*/*.*)
CXX_SOURCES := $(wildcard ops/csrc/*.* ops/csrc/*/*.* tests/ops/emulation/* ms_detr/benchmarks/*.cu*)
# The methods that `make compare` trains, alone and with mixed supervision.
FAMILY := $(filter-out ms_detr_%,$(basename $(notdir $(sort $(wildcard configs/demo/family/*.py)))))
ROW = --run $(1) demo/family/$(1).py train.max_iter=$(ITERATIONS)
# Those whose AP over iterations `make convergence` draws.
CONVERGING := detr conditional dab smca sam sam_smca ms_detr_smca ms_detr_sam ms_detr_sam_smca
COURSE = --run $(1) demo/family/$(1).py dataloader.short_edge=64 model.num_queries=16 train.max_iter=9000 train.eval_epochs=2
# The set-up looks only at the virtual environment, whatever PYTHONPATH holds.
PIP := env -u PYTHONPATH $(BIN)/python -m pip --disable-pip-version-check

# Runs a command against another Detectron2 source tree where DETECTRON2_SRC names one.
ifneq ($(DETECTRON2_SRC),)
  ifeq ($(wildcard $(DETECTRON2_SRC)/detectron2/__init__.py),)
    $(error DETECTRON2_SRC=$(DETECTRON2_SRC) has no detectron2/ package; give the folder that holds it)
  endif
  RUN := env PYTHONPATH="$(abspath $(DETECTRON2_SRC))$${PYTHONPATH:+:$$PYTHONPATH}"
else
  RUN := env
endif

##@ Run
.PHONY: demo
demo: setup ## train, evaluate and draw the demo from scratch, on the CPU
	$(RUN) $(BIN)/python -m ms_detr demo $(DEMO_ARGS)

.PHONY: compare
compare: setup ## train all methods on the demo's data: tables (ITERATIONS=1600, COMPARE_ARGS="--jobs 2")
	$(RUN) $(BIN)/python -m ms_detr demo --data-only
	$(RUN) $(BIN)/python -m ms_detr compare --output output/family/$(ITERATIONS) --seeds 0 \
	  $(COMPARE_ARGS) $(foreach method,$(FAMILY),$(call ROW,$(method)) $(call ROW,ms_detr_$(method)))
	$(RUN) $(BIN)/python -m ms_detr benchmark step --threads 1 --rounds 5 --config-file \
	  $(foreach method,$(FAMILY),demo/family/$(method).py demo/family/ms_detr_$(method).py)

.PHONY: convergence
convergence: setup ## draw AP over 9,000 iterations of DETR and what speeds it up (COMPARE_ARGS="--jobs 2")
	$(RUN) $(BIN)/python -m ms_detr demo --data-only
	$(RUN) $(BIN)/python -m ms_detr compare --output output/convergence --seeds 0 1 --threads 1 \
	  $(COMPARE_ARGS) $(foreach method,$(CONVERGING),$(call COURSE,$(method)))

.PHONY: doctor
doctor: setup ## say what is installed, what is wrong and how to mend it
	$(RUN) $(BIN)/python -m ms_detr doctor

##@ Check
.PHONY: test
test: setup-dev ## run the tests (PYTEST_ARGS="-n 2 ...", DETECTRON2_SRC=/path/to/detectron2)
	$(RUN) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: browser
browser: ## find or install (Debian, as root) the Chromium in which the tests look at reports
	@if command -v "$${MS_DETR_BROWSER:-chromium}" chromium-browser google-chrome >/dev/null \
	    && command -v chromedriver >/dev/null; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium chromium-driver; \
	else \
	  echo "No Chromium with chromedriver here, so tests that look at a page are skipped." >&2; \
	  echo "Install both (Debian: apt install chromium chromium-driver)." >&2; \
	fi

.PHONY: capabilities
capabilities: setup-dev ## run the tests as on CPUs with fewer vector instructions too (PYTEST_ARGS)
	$(RUN) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python tools/capabilities.py $(PYTEST_ARGS)

.PHONY: slow
slow: setup-dev ## run the slow tests, a shortened demo among them (SLOW_ARGS="-k ...")
	$(RUN) $(BIN)/python -m pytest -m slow $(SLOW_ARGS)

.PHONY: scale
scale: setup-dev ## load annotations of Objects365's size, as a slow test (8 GB of disk, 10 minutes)
	SCALE=full $(RUN) $(BIN)/python -m pytest -m slow -s tests/benchmarks/test_annotations.py

.PHONY: lint
lint: setup-dev ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: site
site: setup-dev ## build the documentation's site into build/site/html; links that lead nowhere fail
	$(RUN) $(BIN)/python tools/site_build.py

.PHONY: build-cuda
build-cuda: setup ## compile the CUDA kernels and the benchmark's, or fail (needs nvcc, no GPU)
	FORCE_CUDA=1 $(PIP) install --no-build-isolation --no-deps -e .
	$(RUN) $(BIN)/python -c "from ms_detr.ops import status; assert 'cuda' in status().devices"
	$(RUN) $(BIN)/python -c "from ms_detr.benchmarks import im2col; im2col.load()"

.PHONY: asan
asan: setup-dev ## test the CPU kernels under the address sanitizer
	MS_DETR_SANITIZE=address MS_DETR_BUILD_CUDA=0 $(BIN)/python setup.py --quiet build \
	  --build-base build/asan --build-lib build/asan/lib
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(BIN)/python -m pytest -p no:cacheprovider -o "pythonpath=build/asan/lib . tools" \
	  tests/ops/test_compiled.py

.PHONY: memcheck
memcheck: export PATH := $(or $(CUDA_HOME),/usr/local/cuda)/bin:$(PATH)
memcheck: setup-dev ## test the CUDA kernels for bad reads and races, by compute-sanitizer (needs a GPU)
	@command -v compute-sanitizer >/dev/null || { \
	  echo "error: no compute-sanitizer, which comes with the CUDA toolkit." >&2; \
	  echo "Name the toolkit: make memcheck CUDA_HOME=/path/to/cuda" >&2; exit 1; }
	@$(RUN) $(BIN)/python -c "import sys, torch; from ms_detr.ops import status; sys.exit( \
	  'error: PyTorch sees no GPU here' if not torch.cuda.is_available() else \
	  'cuda' in status().reasons and 'error: no CUDA operator: ' + status().reasons['cuda'])"
	for tool in memcheck racecheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(RUN) compute-sanitizer --tool $$tool \
	    --target-processes application-only --error-exitcode 1 \
	    $(BIN)/python -m pytest -p no:cacheprovider tests/ops/test_cuda.py; \
	done

.PHONY: format
format: setup-dev ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

##@ Set up
.PHONY: setup
setup: $(STAMPS)/package ## virtual environment, pinned dependencies, Detectron2, ms_detr itself

.PHONY: setup-dev
setup-dev: $(STAMPS)/dev ## the same, with what tests and checks need

.PHONY: clean
clean: ## remove build products and caches
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

.PHONY: help
help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# A stamp says that a step is complete. A step that was interrupted left none, and runs again.
$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than 3.11, which the pinned versions need." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) comes without venv and ensurepip." >&2; \
	  echo "Install them (Debian and Ubuntu: apt install python3-venv) or name another PYTHON=..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements/runtime.txt requirements/constraints.txt | $(STAMPS)/venv
	$(PIP) install -r requirements/runtime.txt
	@touch $@

$(STAMPS)/detectron2: $(wildcard tools/detectron2_*.py) $(STAMPS)/runtime
	env -u PYTHONPATH $(BIN)/python tools/detectron2_setup.py install
	@touch $@

$(STAMPS)/package: setup.py ms_detr/__init__.py $(OPERATOR) $(STAMPS)/detectron2
	$(PIP) install --no-build-isolation --no-deps -e .
	$(PIP) check
	@touch $@

$(STAMPS)/dev: requirements/dev.txt requirements/constraints.txt $(STAMPS)/package
	$(PIP) install -r requirements/dev.txt
	$(PIP) check
	@touch $@
