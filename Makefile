# make report    measure on the GPU (or all that can be done without one) and write report/index.html
# make test      every test that this machine can run
# PYTHON=... picks the interpreter; ARGS="..." is passed on to the command.

PYTHON ?= python3
OUT ?= report
ARGS ?=
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help report test check static versions lint format build

help:
	@sed -n 's/^# //p' Makefile

report:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf report --out $(OUT) $(ARGS)

test:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pytest -n 2 $(ARGS)

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
