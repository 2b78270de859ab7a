# The two commands are `make demo` and `make test`; each sets up .venv if it isn't there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
JOBS ?= auto

# In ComfyUI itself: COMFYUI_DIR is its folder, COMFYUI_PYTHON the Python of its environment, with pytest,
# hypothesis and playwright in it.
COMFYUI_PYTHON ?= $(COMFYUI_DIR)/.venv/bin/python

.PHONY: comfyui demo test quick campaign lint format bench pictures docs site

demo: $(INSTALLED)
	$(BIN)/stas generate "a red circle moving right on a blue background" -o outputs/demo.mp4 --force

# One torch thread a process: the tests run side by side.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

# For the inner loop: what is not slow, without the tests that run every model and cache.
quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow" tests/test_*.py tests/method tests/media \
		tests/activations tests/measures tests/cli tests/studies tests/hooks/test_steer.py tests/hooks/test_loop.py

# Thousands of random cases, others each time: SEED=n makes the same again.
campaign: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --hypothesis-profile=campaign --hypothesis-show-statistics \
		$(if $(SEED),--hypothesis-seed=$(SEED)) tests/hooks/test_campaign.py tests/test_fuzz.py

comfyui:
	@test -n "$(COMFYUI_DIR)" || { echo "Set COMFYUI_DIR to ComfyUI's folder."; exit 1; }
	COMFYUI_DIR=$(COMFYUI_DIR) PYTHONPATH=$(CURDIR)/src:$(CURDIR) $(COMFYUI_PYTHON) -m pytest --noconftest \
		-p no:cacheprovider -rs tests/comfyui

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.steer_op --output benchmarks/results/steer_op.json
	$(BIN)/python -m benchmarks.overhead --output benchmarks/results/overhead.json
	$(BIN)/python -m benchmarks.record --output benchmarks/results/record.json
	$(BIN)/python -m benchmarks.startup --output benchmarks/results/startup.json

pictures: $(INSTALLED)
	$(BIN)/python -m docs.make_strip
	$(BIN)/python -m docs.make_figures
	$(BIN)/python -m docs.make_notebooks

docs: $(INSTALLED)
	$(BIN)/python -m docs.make_models
	$(BIN)/python -m docs.make_recipes
	$(BIN)/python -m docs.make_comfyui
	$(BIN)/python -m docs.make_tuning
	$(BIN)/python -m docs.make_workflows
	$(BIN)/python -m docs.make_peers
	$(BIN)/python -m docs.make_defaults
	$(BIN)/python -m docs.make_bundled
	$(BIN)/python -m docs.make_badges

# Warnings are errors: a link that leads nowhere, a name without a docstring's types.
site: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv: a minute or more, most of it for torch."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
