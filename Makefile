# make report    measure on the GPU (or all that can be done without one) and write report/index.html
# make test      every test that this machine can run
# make fuzz      10,000 random calls of every operation against the reference
# make gpu-test  every test, compiled and run on the GPU; goes on where an interrupted run stopped
# PYTHON=... picks the interpreter; ARGS="..." is passed on to the command.

PYTHON ?= python3
OUT ?= report
ARGS ?=
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help report test fuzz gpu-test check static versions lint format build

help:
	@sed -n 's/^# //p' Makefile

report:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf report --out $(OUT) $(ARGS)

test:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pytest -n 2 $(ARGS)

fuzz:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pytest -n 2 tests/test_properties.py --hypothesis-profile fuzz $(ARGS)

gpu-test:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -c 'import torch; assert torch.cuda.is_available(), "no GPU here: make test"'
	run="env PYTHONPATH=$(CURDIR)/tests/gpu $$python -m pytest -p resume --results $(OUT)/gpu-test.jsonl"
	failed=0
	$$run tests/gpu $(ARGS) || failed=1
	$$run tests --ignore tests/gpu -n 8 $(ARGS) || failed=1
	exit $$failed

check:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf check $(ARGS)

lint:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,dev)
	$$python -m ruff check .
	$$python -m ruff format --check .

build:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,dev)
	rm -rf dist build
	$$python -m build --quiet

.ONESHELL:
