# `make demo` and `make test` do all the set-up themselves, on any machine with Python 3.11 or newer.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo check fast test lint types unit docs site browser orthanc clinical aot gpu-bench fuzz \
  mutants faults soak determinism kill-resume gpu-day peers serve-load dist-test ray format clean distclean

VENV ?= .venv
BIN := $(VENV)/bin
# Further arguments for pip, such as PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu": torch without CUDA.
PIP_ARGS ?=
# Further arguments for pytest, such as PYTEST_ARGS="-k tokenizer -x".
PYTEST_ARGS ?=
# The Python to build the environment with; empty: the first 3.11+ on PATH that can.
PYTHON ?=

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); \
	    exit 0; \
	  fi; \
	done; \
	echo "error: no Python 3.11 or newer with venv on PATH" >&2; \
	echo "hint: install one (Debian: apt install python3 python3-venv), or say make PYTHON=/path/to/python3" >&2; \
	exit 4

KERNELS := chexmix_cli/core/kernels
NATIVE := hatch_build.py $(KERNELS)/compiled/build.py $(wildcard $(KERNELS)/*/*.[ch])

# A stamp is as new as the last installation: an environment is renewed only when requirements or compiled code change.
$(VENV)/.demo-ready: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "installing chexmix into $(VENV) (the first time takes minutes: torch is large)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "installing chexmix and its development tools into $(VENV) (the first time takes minutes: torch is large)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.demo-ready $@

env: $(VENV)/.dev-ready  ## make the development environment

demo: $(VENV)/.demo-ready  ## report on a child's radiograph and a picture of it, then findings of a real DICOM study
	@rm -rf demo && mkdir -p demo/study
	@cp docs/images/demo-film.jpg demo/film.jpg
	$(BIN)/chexmix generate-report demo/film.jpg --picture demo/report.png
	@test -s demo/report.png
	@cp "$$($(BIN)/python -c 'import data_store, pathlib; print(pathlib.Path(data_store.__file__).parent / "data/RG1_J2KR.dcm")')" demo/study/
	$(BIN)/chexmix classify demo/study
	@echo "chexmix-mini tells pneumonia on children's films; on adults' it misses most of what radiologists see: docs/results.md"
	@echo "picture: $(CURDIR)/demo/report.png"

# What a change breaks most often, without a model: code, documents, settings, data, text, metrics. Minutes are for `test`.
FAST := $(addprefix tests/unit/,test_architecture.py test_docs.py test_vocab.py settings text commands data/adapters \
  data/test_manifest.py data/test_views.py data/test_presets.py evals/metrics evals/reports weights/formats present)

check: lint types fast  ## lint, types and the fast tests, before every commit

fast: $(VENV)/.dev-ready  ## the fast tests only
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not browser and not orthanc" $(FAST) $(PYTEST_ARGS)

test: lint types unit  ## lint, types and all tests

lint: $(VENV)/.dev-ready  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev-ready  ## static types
	$(BIN)/mypy

# Two workers, one thread each: two cores are what the suite is timed on, and threads under workers only contend. Who is
# done takes tests from the other: else one worker ends minutes before the other.
unit: $(VENV)/.dev-ready  ## tests only
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(PYTEST_ARGS)

docs: $(VENV)/.dev-ready  ## check the documents: links, paths, commands
	$(BIN)/pytest tests/unit/test_docs.py

site: $(VENV)/.dev-ready  ## the documents as a site in build/site, built without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

browser: $(VENV)/.dev-ready  ## open every kind of page in headless Chromium
	OMP_NUM_THREADS=2 $(BIN)/pytest -m browser -s tests/browser $(PYTEST_ARGS)

orthanc: $(VENV)/.dev-ready  ## send studies through a real Orthanc, kill the node among 200 of them (Debian: orthanc orthanc-dicomweb dcmtk)
	OMP_NUM_THREADS=2 $(BIN)/pytest -m orthanc -s tests/orthanc $(PYTEST_ARGS)

clinical: $(VENV)/.dev-ready  ## every test of DICOM, PDF and FHIR documents; says which programme a skipped one needs
	OMP_NUM_THREADS=1 $(BIN)/pytest -rs tests/unit/present/documents tests/cli/report/test_documents.py $(PYTEST_ARGS)

aot: $(VENV)/.dev-ready  ## compile every kernel for sm_80, sm_90, sm_100 into benchmarks/aot.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/aot.py
	$(BIN)/python tools/kernel_tables.py

gpu-bench: $(VENV)/.dev-ready  ## time every kernel on this machine's CUDA device, beside torch and torch.compile
	$(BIN)/python benchmarks/gpu_kernels.py

# Every number is one input, always: FUZZ_ARGS="--parsers JPEG --first 4711 --keep build/found" makes one again.
# What a parser has had is in build/fuzz: the same again goes on behind it; tools/reliability_tables.py makes the table.
# FUZZ_ARGS=--coverage counts how many lines of ours the inputs reach: pip install coverage==7.17.5.
# FUZZ_ARGS="--guided 'TOML settings'" has coverage lead the inputs of one parser: pip install atheris==3.0.0.
FUZZ_INPUTS ?= 2000
FUZZ_ARGS ?=
fuzz: $(VENV)/.dev-ready  ## read FUZZ_INPUTS damaged inputs a parser: DICOM, pictures, archives, text, weights, journals, requests
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --inputs $(FUZZ_INPUTS) $(FUZZ_ARGS)

# MODULE=chexmix_cli.core.vocab: one of the five of pyproject.toml, anew; without it, what is new since the last run.
# `mutmut show NAME` prints a mutant.
MODULE ?=
mutants: $(VENV)/.dev-ready  ## break five core modules in 1,400 small ways: do their tests notice? docs/reliability.md
	$(BIN)/python -m pip install --quiet mutmut==3.8.1
	OMP_NUM_THREADS=1 nice $(BIN)/mutmut run --max-children 1 $(if $(MODULE),"$(MODULE).*")
	$(BIN)/mutmut results
	$(if $(MODULE),,$(BIN)/python tools/mutant_table.py)

# As root on Linux also with disks that are full. PYTEST_ARGS="-k pretrain" runs some; the table keeps the others.
faults: $(VENV)/.dev-ready  ## every command and server under every fault: signals, full disks, dead workers; docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/pytest -m faults tests/faults $(PYTEST_ARGS)
	$(BIN)/python tools/reliability_tables.py

# An hour and a half on a quiet laptop, of which the server has SOAK_MINUTES. SOAK_ARGS="--films 100 --out build/look" is
# a look; --images and --weights take real ones. What is in build/soak goes into docs/reliability.md.
SOAK_MINUTES ?= 60
SOAK_ARGS ?=
soak: $(VENV)/.dev-ready  ## 100,000 films through tokenize, 10,000 through classify and generate-report, an hour of serve http
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --minutes $(SOAK_MINUTES) $(SOAK_ARGS)
	$(BIN)/python tools/reliability_tables.py

# PYTEST_ARGS="-k again" runs some; the table keeps the others. Five processor minutes.
determinism: $(VENV)/.dev-ready  ## every command again and in other batches, workers, shares, threads: what is the same; docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/pytest -m determinism tests/determinism $(PYTEST_ARGS)
	$(BIN)/python tools/determinism_table.py

# FILMS: a folder of pictures or DICOM files, as many as you have patience for.
FILMS ?= ../shared/data/radiographs/images
kill-resume: $(VENV)/.dev-ready  ## kill a run over FILMS ten times with kill -9, compare with one left alone
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/kill_resume.py $(FILMS) --kills 10

gpu-day: $(VENV)/.dev-ready  ## everything there is to find out on this machine's GPU: build/gpu-day/gpu-day.html
	$(BIN)/python benchmarks/gpu_day.py build/gpu-day

# It has no wheels and wants a C++ compiler and minutes, so it is in no extra. One thread: see the tests.
peers: $(VENV)/.dev-ready  ## build llama.cpp, and hold exported weights against it and transformers
	$(BIN)/python -m pip install --quiet llama-cpp-python==0.3.36
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit/weights/test_export.py tests/cli/weights/test_serving_page.py $(PYTEST_ARGS)

serve-load: $(VENV)/.dev-ready  ## load the HTTP server with reports on FILMS, at concurrency 1, 8 and 64
	$(BIN)/python benchmarks/serve_load.py $(FILMS) --requests 64 --rounds 3

# From the index, minutes and gigabytes: torch three times, the oldest one with CUDA unless PIP_ARGS names the CPU index.
dist-test: $(VENV)/.dev-ready  ## build wheel and sdist, install each alone: demo, imports, licences, SBOM; oldest versions too
	$(BIN)/python -m pip install --quiet build==1.6.1 cyclonedx-bom==7.5.0
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/pytest -m dist tests/package $(PYTEST_ARGS)

# Needs the extra ray: pip install 'chexmix[ray]'. Some 20 minutes on two cores; RAY_ARGS="--films 500" is quicker.
RAY_ARGS ?=
ray: $(VENV)/.dev-ready  ## a Ray cluster of two nodes, one killed midway, over 5,000 films; compare with one process
	@$(BIN)/python -c "import ray" 2>/dev/null || { echo "hint: $(BIN)/pip install -e '.[ray]'" >&2; exit 4; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/cli/test_ray.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ray_kill.py $(RAY_ARGS)

format: $(VENV)/.dev-ready  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what tests, builds and the demo leave
	rm -rf demo build dist mutants .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## the same, and the environment
	rm -rf $(VENV)
