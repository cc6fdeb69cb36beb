# Needs Python 3.11 or newer; all else is made in a cache folder (see scripts/environment.py).
PY ?= python3
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint fuzz faults packages generated python comfyui

help:
	@echo "make demo      run the demo workflow on a ComfyUI server without a screen, print the score table"
	@echo "make demo METHODS=all   the same with all methods, some minutes"
	@echo "make test      style, types, unit tests, tests on ComfyUI 0.30.0 and 0.24.0, server, browser and installation tests"
	@echo "make test-all  the same in every combination, for changes to many rooms and before a release"
	@echo "make lint      style and types only"
	@echo "make fuzz      100,000 damaged and hostile files for every reader, some 15 minutes, a line a kind"
	@echo "make fuzz ARGS=\"--count 5000 --seed 7 plans\"   fewer, of another seed, for some readers (see scripts/fuzz.py)"
	@echo "make faults    real servers interrupted, killed, without disk or memory, and 500 prompts in a row, a line a kind"
	@echo "make faults ARGS=\"--kills 20 kills\"   fewer, some kinds (see scripts/faults.py)"
	@echo "make packages  tests with the oldest and the newest peft, timm, open_clip and matplotlib, and in Python 3.10 to 3.13"
	@echo "make generated  what is made from nodes and sources: workflows, blueprints, plans, interface.json, locales, help, pictures"
	@echo "make generated PARTS=\"workflows help\"   parts of it (see scripts/make_generated.py)"
	@echo "make python    path of the environment's Python (use: make -s python)"
	@echo "make comfyui   path of the ComfyUI folder (use: make -s comfyui)"

demo: export METHODS ?=
demo:
	@echo "[demo] making sure that the Python environment and ComfyUI are there"
	@python=$$($(PY) scripts/environment.py python) && COMFYUI_DIR=$$($(PY) scripts/environment.py comfyui) $$python demo/run.py

test:
	@echo "[test] making sure that the Python environment and ComfyUI are there"
	@python=$$($(PY) scripts/environment.py python) && $$python scripts/test.py

test-all:
	@echo "[test] making sure that the Python environment and ComfyUI are there"
	@python=$$($(PY) scripts/environment.py python) && $$python scripts/test.py --all

lint:
	@python=$$($(PY) scripts/environment.py python) && $$python scripts/test.py style types

fuzz:
	@python=$$($(PY) scripts/environment.py python) && DEFT_TEST_COMFYUI=$$($(PY) scripts/environment.py comfyui) \
		$$python scripts/fuzz.py $(ARGS)

faults:
	@python=$$($(PY) scripts/environment.py python) && COMFYUI_DIR=$$($(PY) scripts/environment.py comfyui) \
		$$python scripts/faults.py $(ARGS)

packages:
	@python=$$($(PY) scripts/environment.py python) && $$python scripts/packages.py $(ARGS)

generated: export PARTS ?=
generated:
	@python=$$($(PY) scripts/environment.py python) && COMFYUI_DIR=$$($(PY) scripts/environment.py comfyui) \
		$$python scripts/make_generated.py $$PARTS

python:
	@$(PY) scripts/environment.py python

comfyui:
	@$(PY) scripts/environment.py comfyui
