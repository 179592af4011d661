# Requires Python 3.10 or later, make and pip; creates the virtual environment .venv itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
WEIGHTS ?= yolov5n.pt
# wheels only, so that no compiler is needed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --only-binary :all:

.DELETE_ON_ERROR:
.PHONY: help demo test smoke checks format-check lint types format venv venv-dev clean

help:
	@echo "make demo     train on a generated data set, extend the run, plot it; takes minutes on a CPU"
	@echo "make test     run the tests; YOLO_DATASETS_DIR is the folder of reference data, if available"
	@echo "make smoke    train on COCO128 for one epoch, extend with each mode, validate, detect, export"
	@echo "make checks   check formatting, lint and types"
	@echo "make format   fix formatting and lint errors where possible"
	@echo "make clean    remove $(VENV) and caches; keep runs/ and data sets"

# Train a detector from scratch to its planned end, then extend the run, as in the README.
demo: venv
	@echo "Draws 208 street scenes, trains for 24 epochs, then extends the run by 12: about 3 minutes on 2 cores."
	$(BIN)/python train.py --data streets.yaml --hyp hyp.streets.yaml --optimizer AdamW \
		--weights '' --cfg yolov5n.yaml --imgsz 320 --batch-size 8 --nominal-batch-size 8 \
		--epochs 24 --workers 2 --project $(DEMO)
	$(BIN)/python train.py --resume --project $(DEMO) --extend-epochs 12 --lr-continuation rebase

# two test processes with one thread each: faster on two cores than one process with two threads
test: venv-dev
	@echo "Runs about 3,500 tests in two processes: about 6 minutes on 2 cores."
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# COCO128 and the weights are downloaded where they are missing
smoke: venv-dev
	$(BIN)/python -m tests.smoke --weights $(WEIGHTS)

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

# the second command is for a Python without ensurepip, such as Debian's
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "PYTHON=$(PYTHON) is older than Python 3.10; set PYTHON to a newer one")'
	$(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

# the stamp has the time of the installation, so changed requirements are installed again
$(VENV)/.runtime-stamp: requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements.txt
	touch $@

$(VENV)/.developer-stamp: requirements-dev.txt requirements-export.txt requirements.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $@ $(VENV)/.runtime-stamp

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
