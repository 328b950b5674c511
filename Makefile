# One command each for the day's work. Everything installs into .venv from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed

.PHONY: demo scoreboard scoreboard-full test test-story test-packaging test-browser lint typecheck bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'torch==$(shell sed -n 's/^torch==//p' constraints.txt)'  # first: an open range would bring CUDA
	$(PIP) install -c constraints.txt -e '.[trl,text,triton,quant,lab,explore,dev]'
	touch $@

demo: $(STAMP)  ## the whole story on a model trained on the spot, in ./demo
	rm -rf demo
	$(BIN)/gradstore demo

DATA ?= ../shared/data
scoreboard: $(STAMP)  ## eight methods x five seeds on invented people, within an hour on two cores, in ./scoreboard
	$(BIN)/gradstore lab scoreboard scoreboard --world people --seeds 0-4

scoreboard-full: $(STAMP)  ## every method on three worlds; NQ and ARC from DATA (nq/dev.json, arc/ARC-Challenge-Test.jsonl)
	$(BIN)/gradstore lab scoreboard scoreboard --all --seeds 100-104 \
		--data nq=$(DATA)/nq/dev.json --data arc=$(DATA)/arc/ARC-Challenge-Test.jsonl

test: $(STAMP)  ## the tests, under ten minutes on two cores
	$(BIN)/python -m pytest -q

test-story: $(STAMP)  ## real questions from pretraining to export, and kills on the way
	$(BIN)/python -m pytest -q -m 'slow and not packaging and not browser'

test-packaging: $(STAMP)  ## the wheel in environments of its own
	$(BIN)/python -m pytest -q -m packaging

test-browser: $(STAMP)  ## the report and the explorer in a real Chromium, which is installed where there is none
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)
	$(BIN)/python -m pytest -q -m browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)  ## the installed tree: type checkers cannot follow the folder mapping
	rm -rf build
	$(PIP) install --no-deps --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p gradstore

bench: $(STAMP)
	$(BIN)/python benchmarks/query.py
	$(BIN)/python -W ignore benchmarks/extraction.py  # makes build/rivals for bergson and TRAK, 1.8 GB

clean:
	rm -rf build dist *.egg-info demo scoreboard
