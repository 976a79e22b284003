# medcot: `make repro` runs the whole pipeline, `make test` the tests; both build .venv first.
# TORCH chooses the build of torch: empty = what pip finds, cpu, auto (fits the driver), cu130 …
PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin

export PATH := $(BIN):$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: repro test lint bench-train venv lock clean

repro: $(VENV)/ready
	dvc repro

test: $(VENV)/ready-dev
	python -m pytest

lint: $(VENV)/ready-dev
	ruff check .
	ruff format --check .
	mypy

# Training speed and memory of your own card, beside whatever trainers are installed.
bench-train: $(VENV)/ready
	python benchmarks/train.py --whole-card

venv: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
ifneq ($(TORCH),)
	python -m pip install --quiet uv
	uv pip install --python $(VENV)/bin/python --torch-backend $(TORCH) $$(grep '^torch==' requirements.lock)
endif
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --no-build-isolation --editable .
	# `.venv/bin/dvc` runs `python -m stages.X`: with this line it finds this environment's python even when nobody activated it.
	echo 'import os, sys; os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", "")' \
	  > "$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/medcot_path.pth"
	touch $@

# LLaMA-Factory's pins contradict current transformers and trl, so its loader is installed for the tests alone, without dependencies.
# And a CPU build of torch brings no triton, whose interpreter and compiler the tests of the GPU kernels need.
$(VENV)/ready-dev: $(VENV)/ready requirements-dev.lock requirements-llamafactory.txt requirements-triton.txt
	python -m pip install --quiet --requirement requirements-dev.lock
	python -m pip install --quiet --no-deps --requirement requirements-llamafactory.txt
	python -c 'import triton' 2> /dev/null || python -m pip install --quiet --no-deps --requirement requirements-triton.txt
	touch $@

# Pins plain versions: a CPU or a CUDA build of torch satisfies `torch==X`, and the CUDA packages come with the CUDA build alone.
LOCKED = $(CURDIR)/.medcot/lock/bin/python -m pip
PLAIN = sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(nvidia-(cu|nccl|nv)|cuda-|triton)'
lock:
	rm -rf .medcot/lock && $(PYTHON) -m venv .medcot/lock
	$(LOCKED) install --quiet setuptools .
	$(LOCKED) freeze --all --exclude medcot --exclude pip | $(PLAIN) > requirements.lock
	$(LOCKED) install --quiet '.[dev]'
	$(LOCKED) freeze --all --exclude medcot --exclude pip | $(PLAIN) | grep -vxFf requirements.lock > requirements-dev.lock
	rm -rf .medcot/lock build

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
