# make report    measure on the GPU (or all that can be done without one) and write report/index.html
# make shell     a shell in which `python` has the modules and `segattn` is a command
# make smoke     a test of every property, in 60 seconds on two cores
# make test      a fixed share of the cases of every property, in minutes
# make interop   what needs another tool: ONNX, OpenVINO, a C++ compiler, the Kernel Hub's package, installed libraries'
#                models, the blocks of the docs, a type checker
# make test-full every case, the properties under hypothesis and the integrations; writes its count into the README
# make properties  3,000 random calls over all operations against the reference
# make fuzz      10,000 random calls of every operation against the reference
# make mutants   plants SAMPLE (20) faults into a copy of the tree, which the tests have to find; again with the same SEED
#                (1) and more, it goes on
# make prove     SentryWard, which it installs, looks for races in the PTX of every kernel, for a small problem; of one row
#                with ARGS="ROW"
# make static    compiles what the ledger of named problems lacks, for every architecture; ARGS=--all everything; then
#                holds attention to windows, at the sizes of backbones' stages, to its bars by the account
# make predicted what is predicted from machine code: both sides of every named problem, the choices of configs, tables and
#                curves; what is known is kept: minutes after a change of kernels, 90 on two cores from nothing
# make gpu-test  the same tests, compiled and run on the GPU, and what only a GPU shows; starts none after MINUTES (7),
#                and goes on where a run stopped; with ARGS="--share 1" MINUTES=60 every case
# make h200      all that fifteen minutes of a GPU are good for, the most valuable first, in BUDGET (540) seconds: nothing
#                is fetched; again, it goes on; an archive of the results is renewed in OUT while it runs
# make h200-keep ARCHIVE=...  its records, plots and tuned table into the places from which they are committed
# make versions  other releases of torch, each with its own Triton, 3.6 to 3.9 (4 GB each, into build/): numerics in
#                the interpreter, and all kernels compiled; ARGS="--share 8" one in eight of the problems
# make newest    what `make test` runs of kernels, modules and acceleration, on what `pip install torch` gives: gigabytes
# make nightly   every kind of page in headless Chromium, as phone and laptop show it, into build/screenshots
# make conformance  neighbourhood attention against NATTEN and natten-mps, which it installs
# make hub       the repository that the builder of the Kernel Hub takes, into build/hub; of a committed tree alone
# make docs      the site, into docs/build; a warning is an error, and no network is used once its tools are installed
# PYTHON=... picks the interpreter; ARGS="..." is passed on to the command.

PYTHON ?= python3
OUT ?= report
ARGS ?=
SAMPLE ?= 20
SEED ?= 1
MINUTES ?= 7
TORCHES ?= 2.11.0 2.12.0 2.14.1 2.15.0
ON_NEWEST := against bad_input compare flush gates hostile_files model_report
NOT_ON_NEWEST := $(filter-out $(ON_NEWEST:%=tests/perf/test_%.py),$(wildcard tests/perf/test_*.py))
BUDGET ?= 540
ARCHIVE ?= $(OUT)/results.tar.gz
WORKERS ?= $(shell nproc 2> /dev/null || echo 4)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help report shell smoke test interop test-full properties fuzz gpu-test h200 h200-keep nightly conformance mutants prove check static predicted versions newest lint hub docs build

help:
	@sed -n 's/^# //p' Makefile

report:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf report --out $(OUT) $(ARGS)

shell:
	python=$$($(PYTHON) bootstrap.py --extras perf,models)
	PATH="$$(dirname $$python):$$PATH" exec "$${SHELL:-bash}"

smoke:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,models,interop)
	$$python -m pytest -n 2 --smoke 50 $(ARGS)

test:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,models,interop)
	$$python -m pytest -n 2 $(ARGS)

interop:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,models,interop,deploy)
	$$python -m pytest -n 2 -m interop --share 1 $(ARGS)

properties:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pytest -n 2 --share 1 tests/kernels/test_properties.py $(ARGS)

fuzz:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pytest -n 2 --share 1 tests/kernels/test_properties.py --hypothesis-profile fuzz $(ARGS)

gpu-test:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -c 'import torch; assert torch.cuda.is_available(), "no GPU here: make test"'
	run="env PYTHONPATH=$(CURDIR)/tests/gpu $$python -m pytest -p resume --timeout 300 --results $(OUT)/gpu-test.jsonl"
	run="$$run --until $$(( $$(date +%s) + 60 * $(MINUTES) ))"
	failed=0
	$$run tests/gpu --share 1 -m huge $(ARGS) & huge=$$!
	$$run tests/gpu --share 1 -m "not huge" -n $(WORKERS) $(ARGS) || failed=1
	wait $$huge || failed=1
	$$run tests --ignore tests/gpu --ignore tests/kernels/test_static.py -n $(WORKERS) $(ARGS) || failed=1
	exit $$failed

h200:
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check -e .
	$(PYTHON) -m segattn_triton.perf.prepared measure --budget $(BUDGET) --pack $(OUT) $(ARGS)

h200-keep:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf.prepared keep $(ARCHIVE)
	$$python -m segattn_triton.perf.report.render.readme README.md

test-full:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,models,interop)
	$$python -m pytest -n 2 --share 1 --readme=README.md $(ARGS)

nightly:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python tests/support/screenshots.py build/screenshots

conformance:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pip install --quiet --no-deps --no-build-isolation natten==0.21.7 natten-mps==0.3.3
	$$python -m pytest --share 1 tests/kernels/test_natten_conformance.py $(ARGS)

mutants:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,models,interop)
	nice -n 19 $$python tests/mutants --sample $(SAMPLE) --seed $(SEED) $(ARGS)

prove:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m pip install --quiet --no-deps sentryward==0.1.1
	$$python tests/support/prove.py $(ARGS)

check:
	python=$$($(PYTHON) bootstrap.py --extras perf)
	$$python -m segattn_triton.perf check $(ARGS)

static:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python tests/support/static_ledger.py $(ARGS)
	$$python tests/support/window_bars.py

predicted:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	$$python -m segattn_triton.perf against --named $(ARGS)
	$$python -m segattn_triton.perf spaces --named
	$$python -m segattn_triton.perf.compiler.windows
	$$python -m segattn_triton.perf.report.render.readme README.md

versions:
	python=$$($(PYTHON) bootstrap.py --extras perf,test)
	for release in $(TORCHES); do
	  folder=build/torch-$$release
	  [ -d $$folder ] || $$python -m pip install --quiet --target $$folder torch==$$release numpy==2.3.5
	  $$python tests/support/versions.py $$folder $(ARGS)
	done

newest:
	[ -x build/newest/bin/python ] || $(PYTHON) -m venv build/newest
	export PIP_CONSTRAINT=$(CURDIR)/constraints-newest.txt
	build/newest/bin/python -m pip install --quiet --disable-pip-version-check -e ".[perf,test,models,interop]"
	build/newest/bin/python -m pytest -n 2 -m "not static" --ignore tests/gpu $(NOT_ON_NEWEST:%=--ignore %) $(ARGS)

lint:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,dev)
	$$python -m ruff check .
	$$python -m ruff format --check .

hub:
	$(PYTHON) hub/write.py build/hub

docs:
	python=$$($(PYTHON) bootstrap.py --extras perf,docs)
	$$python -m sphinx --quiet --fail-on-warning --keep-going docs docs/build $(ARGS)

build:
	python=$$($(PYTHON) bootstrap.py --extras perf,test,dev)
	rm -rf dist build
	$$python -m build --quiet

.ONESHELL:
