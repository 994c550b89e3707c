# Every target works from a bare checkout that has python3 (3.10 to 3.12) and make: it makes .venv,
# installs the exact set of constraints.txt in it, and finds that done the next time. No root needed.

SHELL := /bin/bash
BIN := .venv/bin
EXTRAS := torch,mindspore,onnx,ray,rl,report,log,docs,test
KEY := $(shell cat pyproject.toml constraints.txt Makefile | cksum | cut -d' ' -f1)
READY := .venv/.ready-$(KEY)

.DEFAULT_GOAL := help
.PHONY: help venv test slow lint docs demo data bench gpu zoo accuracy clean

help:
	@echo "make demo      train, prune, export and measure a ResNet-20 (configs/quickstart.yml)"
	@echo "make test      ruff, mypy, doctests and the quick tests"
	@echo "make slow      the long tests"
	@echo "make lint      ruff and mypy only"
	@echo "make docs      build the site into build/site; a warning is an error"
	@echo "make data      install Fashion-MNIST, which demo and tests use where it is there"
	@echo "make bench     every benchmark, into benchmarks/RESULTS.md (five hours or more, three of them for accuracy)"
	@echo "               parts: BENCH=performance, quality, gpu, or names of benchmarks: BENCH=\"analysis search\""
	@echo "make gpu       the law, latency, UniPruning and exported files on an NVIDIA GPU (ten minutes)"
	@echo "make zoo       the law on 300 public networks, into docs/zoo.md (an hour)"
	@echo "make accuracy  how accurate pruned networks are, method by method, beside rivals and chance (three hours)"
	@echo "make clean     remove what builds and runs leave behind; .venv and data stay"

venv: $(READY)

$(READY):
	bash .ci/venv "$(EXTRAS)"
	rm -f .venv/.ready-*
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# pytest by its own script: `python -m pytest` would put this folder on sys.path
test: lint
	$(BIN)/pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

slow: $(READY)
	$(BIN)/pytest -m slow

# the variable silences what Material says of its own future
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: $(READY)
	$(BIN)/prunekit run configs/quickstart.yml --out outputs/quickstart --overwrite
	$(BIN)/prunekit run configs/quickstart.yml --backend mindspore --out outputs/quickstart-mindspore --overwrite --set weights=outputs/quickstart/original

data: $(READY)
	bash .ci/data

# all of them, or those that are named; results of the others stay
bench: $(READY)
	$(BIN)/python benchmarks/results.py $(BENCH)

gpu: $(READY)
	$(BIN)/python benchmarks/results.py gpu

zoo: $(READY)
	$(BIN)/python benchmarks/zoo_table.py

accuracy: $(READY)
	$(BIN)/python benchmarks/results.py quality

clean:
	rm -rf build dist outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
