# make demo | make test | make gpu   (CUDA=13 for CuPy on CUDA 13; PY=python3 uses that Python as it is: no venv, no installs)
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
TESTS := $(VENV)/.cuda$(CUDA)-dev
endif
PIP    = $(VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test gpu clean
demo: $(READY)
	$(RUN) -m spec_toolkit.cli run quick_demo

test: $(TESTS)
	@$(RUN) -m pytest -q

gpu: $(READY)
	$(RUN) -m spec_toolkit.cli gpu --out $(OUT)

clean:
	rm -rf $(VENV) outputs

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv does not work here: apt-get install python3-venv"; exit 1; }

# torch first and alone: the pinned version, before anything can ask pip for a newer one.
$(VENV)/.cuda$(CUDA): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[cuda$(CUDA),notebooks]'
	@touch $@

$(VENV)/.cuda$(CUDA)-dev: $(VENV)/.cuda$(CUDA)
	$(PIP) -e '.[cuda$(CUDA),notebooks,dev]'
	@touch $@
