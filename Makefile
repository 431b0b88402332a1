# make demo: install into .venv, segment the example photographs, say where the pictures are; 6 GB, most of it PyTorch
#            with CUDA: docs/index.md tells how to take PyTorch for the CPU instead, by TORCH_INDEX=...
# make test: install into .venv, run linter, type checker and all tests
# make fuzz: mutated and hostile files for every reader, 20,000 each; FUZZ_EXAMPLES=1000 for fewer
# make gpu:  what needs a CUDA device: the tests marked gpu, and a table of images a second
# make docs: build the documentation into site/; needs no network once installed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Package index to take torch and torchvision from first
TORCH_INDEX ?=

.PHONY: demo test lint fuzz gpu docs install clean

install: $(DEV_INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"expected Python 3.11 or newer; got {sys.version.split()[0]}; run make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "installing masktree and 60 packages that it needs into $(CURDIR)/$(VENV)"
ifeq ($(TORCH_INDEX),)
	@echo "6.2 GB on Linux, of which 5.5 GB are PyTorch with CUDA; without an NVIDIA GPU 4.3 GB can be saved: see"
	@echo "\"Without a GPU\" in docs/index.md"
endif
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(PIP) torch torchvision --index-url $(TORCH_INDEX)
endif
	$(PIP) --editable .
	touch $@

$(DEV_INSTALLED): $(INSTALLED)
	$(PIP) --editable ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/masktree segment examples/photos -o out/demo
	@echo "look at the overlays: $(CURDIR)/out/demo/*.png"

lint: install
	$(BIN)/ruff check src tests benchmarks recipes
	$(BIN)/ruff format --check src tests benchmarks recipes
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file stays on one worker; tests/conftest.py says which come first, so that both workers end together.
test: lint
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

# Many inputs to every reader, other ones each time; the table at the end tells what they came to.
FUZZ_EXAMPLES ?= 20000
fuzz: install
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz

gpu: install
	$(BIN)/python -m pytest tests -m gpu
	$(BIN)/python benchmarks/gpu.py

docs: install
	$(BIN)/python -c 'import mkdocs, mkdocstrings, material' 2>/dev/null || $(PIP) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open $(CURDIR)/site/index.html"

clean:
	rm -rf $(VENV) out site
