# Needs Python 3.10 or later, make and pip; sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
# wheels only: a machine without a compiler must do
PIP_INSTALL := $(BIN)/python -m pip install --quiet --only-binary :all:

.DELETE_ON_ERROR:
.PHONY: help demo test checks format-check lint types format venv venv-dev clean

help:
	@echo "make demo     train on a data set made on the spot, extend the run, draw; minutes on a CPU"
	@echo "make test     the tests; YOLO_DATASETS_DIR names the folder of reference data, where there is one"
	@echo "make checks   formatting, lint and types"
	@echo "make format   put formatting and what lint can mend right"
	@echo "make clean    remove $(VENV) and caches; runs/ and the data sets stay"

# A detector from scratch until its planned end, then an extension: the two commands of the README.
demo: venv
	$(BIN)/python train.py --data streets.yaml --hyp hyp.streets.yaml --optimizer AdamW \
		--weights '' --cfg yolov5n.yaml --imgsz 320 --batch-size 8 --nominal-batch-size 8 \
		--epochs 24 --workers 2 --project $(DEMO)
	$(BIN)/python train.py --resume --project $(DEMO) --extend-epochs 12 --lr-continuation rebase

# two tests at once, each with one thread: quicker on two cores than one with two
test: venv-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

checks: format-check lint types

format-check: venv-dev
	$(BIN)/ruff format --check .

lint: venv-dev
	$(BIN)/ruff check .

types: venv-dev
	$(BIN)/mypy .

format: venv-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv: $(VENV)/.runtime-stamp
venv-dev: $(VENV)/.developer-stamp

# the second line is for Pythons that come without ensurepip, such as Debian's
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, PYTHON=$(PYTHON) is older")'
	$(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

# a stamp is as new as the installation, so a changed list of requirements installs again
$(VENV)/.runtime-stamp: requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements.txt
	touch $@

$(VENV)/.developer-stamp: requirements-dev.txt requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $@ $(VENV)/.runtime-stamp

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
