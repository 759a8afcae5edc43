# Every target sets up what it needs in $(VENV) with nothing but Python >= 3.11; a prepared environment is used again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.kinfolk-installed
RUN ?= runs/demo
OUT ?= runs/gpu

.PHONY: setup demo test check bench gpu pictures docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train an encoder on real images without labels, evaluate it, write its report (about a minute)"
	@echo "make test   run all tests with coverage        make check   formatting, lint, types"
	@echo "make bench  time and memory of the losses      make docs    build the documentation    make setup   install only"
	@echo "make pictures  draw the losses' gradients, the views and the methods' data flows for the docs"
	@echo "make gpu PYTHON=python3 OUT=folder   GPU tests and benchmarks in under eight minutes; installs nothing"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/peers.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "kinfolk needs Python 3.11 or newer; found `$(PYTHON) --version`. Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[train,dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r tests/peers.txt || echo "other libraries' losses are not to be had here: their tests skip"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/kinfolk train simclr-digits-moved --out $(RUN) --overwrite

# A slice of the emoji, textures and WordNet, so that tests on real data run; what cannot be fetched skips and says so.
.data/emoji/prepared.json: | $(STAMP)
	@$(BIN)/kinfolk data prepare emoji --only 150 --out .data/emoji || echo "emoji are not to be had here: their tests skip"

.data/%/prepared.json: | $(STAMP)
	@$(BIN)/kinfolk data prepare $* --out .data/$* || echo "$* is not to be had here: its tests skip"

test: $(STAMP) .data/emoji/prepared.json .data/textures/prepared.json .data/wordnet/prepared.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --doctest-modules --doctest-glob='*.md' --cov --cov-report= kinfolk tests docs README.md
	$(BIN)/python -m coverage report --skip-covered --include='kinfolk/ops/*,kinfolk/graphs/*,kinfolk/losses/*' --fail-under=95

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy kinfolk benchmarks

bench: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks losses --docs $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python -m benchmarks scaling --docs
	$(BIN)/python -m benchmarks data --docs

gpu:
	PYTHONPATH="$(CURDIR)" $(PYTHON) -W ignore -m benchmarks gpu --out "$(OUT)" $(if $(PEERS),--peers $(PEERS))

pictures: $(STAMP)
	$(BIN)/python docs/pictures/loss_gradients.py
	$(BIN)/python docs/pictures/views.py
	$(BIN)/python docs/pictures/method_flows.py

docs: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
