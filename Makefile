# python3, make and git are enough: the first call of a target installs what it needs into $(VENV).
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# `make train METHOD=mt ITERATIONS=1000` changes a setting, `make train ARGS="--norm batch"` adds one.
# The patch holds a whole atrium of the phantom: with a smaller one, pieces far from it are taken for atrium.
DATA = phantom
METHOD = lg-er-mt
PRESET = strong
LABELED = 4
ITERATIONS = 150
PATCH = 64 64 48
BASE_CHANNELS = 8
LEARNING_RATE = 0.003
VALIDATE_EVERY = 15
SEED = 0
OUT = runs/phantom
OVERWRITE =
RUN =
NAME =
ARGS =

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Threads that wait sleep instead of spinning: where other programs compute as well, a step takes a third of the time.
export OMP_WAIT_POLICY ?= PASSIVE
export PLOTLY_RENDERER ?= plotly_mimetype

.PHONY: help install train check quick test trust wheel lab progress app docs lessons readme pictures export clean
.DELETE_ON_ERROR:

help: ## these lines
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 17

install: $(INSTALLED) ## set up .venv (the other targets do it by themselves)

$(INSTALLED): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than 3.10: name another, e.g. PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV), once: PyTorch, then the rest (a few minutes)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

train: $(INSTALLED) ## train on the phantom: a few minutes on a CPU, ends with report.html
	@test ! -e "$(OUT)/config.json" -o -n "$(OVERWRITE)$(filter --resume --overwrite,$(ARGS))" || \
		{ echo "$(OUT) holds a run: make train OVERWRITE=1 replaces it, OUT=runs/second takes another folder, ARGS=--resume goes on" >&2; exit 2; }
	$(BIN)/python -m lgermt.train --data $(DATA) --method $(METHOD) --preset $(PRESET) --labeled $(LABELED) --iterations $(ITERATIONS) \
		--patch $(PATCH) --base-channels $(BASE_CHANNELS) --learning-rate $(LEARNING_RATE) --validate-every $(VALIDATE_EVERY) \
		--out $(OUT) --seed $(SEED) $(if $(OVERWRITE),--overwrite) $(ARGS)
	@echo "Open $(abspath $(OUT))/report.html in a browser."

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(INSTALLED) ## seconds: style, layers, export and README in step, notebooks fit to be read
	$(PYTEST) tests/test_repository.py --quiet $(ARGS)

quick: $(INSTALLED) ## two minutes: check, and behaviour without the long tests; before every commit
	$(PYTEST) --quiet -m "not slow" $(ARGS)

test: $(INSTALLED) ## everything: every notebook, whole trainings, damaged files, kills, a real browser
	$(PYTEST) $(ARGS)

trust: $(INSTALLED) ## an hour: promises tried with new inputs, figures to results/trust.json
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[trust]'
	OMP_NUM_THREADS=1 PYTHONPATH=".:tests" $(BIN)/python -m trust $(ARGS)

wheel: $(INSTALLED) ## the package as dist/*.whl, the same bytes every time, with a list of tested packages
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[trust]'
	$(BIN)/python docs/wheel.py dist

lab: $(INSTALLED) ## JupyterLab on the lessons, beginning with a welcome page
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/index.ipynb \
		--LabApp.app_settings_dir="$(CURDIR)/docs/lab" $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

progress: $(INSTALLED) ## how many exercises of the lessons are solved
	@$(BIN)/python -c 'from pathlib import Path; from lgermt.viz.exercise import progress_lines; print(*progress_lines(Path()), sep="\n")'

app: $(INSTALLED) ## figures to move as pages; RUN=runs/phantom shows what a run of yours learnt
	@START="$(PWD)" $(BIN)/python apps/start.py "$(RUN)" $(ARGS)

docs: $(INSTALLED) ## all lessons and the API as pages that need no network, in _docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/build.py _docs
	@echo "Open $(CURDIR)/_docs/index.html in a browser."

lessons: $(INSTALLED) ## run all notebooks in place, or NAME="01_entropy ..."; needs Chromium
	$(BIN)/python docs/lessons.py $(NAME) $(ARGS)

export: $(INSTALLED) ## notebooks formatted, exported to lgermt/ and cleaned
	$(BIN)/ruff check --quiet --fix --select I nbs index.ipynb
	$(BIN)/ruff format --quiet .
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: $(INSTALLED) ## run index.ipynb and write README.md from it
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False index.ipynb
	$(BIN)/nbdev_clean --fname index.ipynb
	$(BIN)/python docs/readme.py

pictures: $(INSTALLED) ## the two pictures of README.md; RUN=runs/NAME shows that run; takes Chromium
	OMP_NUM_THREADS=1 $(BIN)/python docs/pictures.py $(if $(RUN),--run "$(RUN)") $(ARGS)

clean: ## remove caches and build products (keeps .venv, data and runs)
	rm -rf build dist _docs *.egg-info .pytest_cache .hypothesis
	find lgermt nbs tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
