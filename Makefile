# Each target does all its own set-up. `make run` and `make test` are the two to know.

PYTHON = .venv/bin/python
SOURCES = nekko tests bench
FUZZ_SECONDS = 60
STOR_FILES = 2000
STOR_KILLS = 25

.PHONY: help run test test-peers test-browser fault fault-fast stor image-steps fuzz lint check zipapp image test-image smoke \
	bench test-nspawn vm-test readme man install uninstall clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Run the daemon on its defaults, with a cache inside this checkout that has a first image
	@packaging/setup run
	@mkdir -p .cache && $(PYTHON) -m nekko.oci.hello > .cache/hello-world.tar
	$(PYTHON) -m nekko serve --cache-dir .cache/nekko --preload-images .cache/hello-world.tar --preload-platform all

test: ## Run every test that fits in some minutes
	@packaging/setup test
	$(PYTHON) -m pytest

test-peers: ## Prove the tests' far ends with released clients, each in its own environment
	@packaging/setup peers
	$(PYTHON) -m pytest -m peers -o addopts=

fuzz: ## Search every parser for input that breaks it (FUZZ_SECONDS each, 60)
	@packaging/setup fuzz
	build/fuzz-env/bin/python -m tests.fuzz $(FUZZ_SECONDS)

test-browser: ## Look at the page at /ui with headless Chromium
	@packaging/setup browser
	$(PYTHON) -m pytest -m browser -o addopts=

fault: ## Let everything fail that can, write docs/faults.md (root; some minutes)
	@packaging/setup test
	$(PYTHON) -m pytest -m fault -o addopts= tests/fault --kills 500 --write-matrix docs/faults.md

fault-fast: ## The same with fewer kills
	@packaging/setup test
	$(PYTHON) -m pytest -m fault -o addopts= tests/fault

stor: ## Prove the file store on tuples: damage, and kills during uploads (STOR_FILES=100000 STOR_KILLS=200 for all)
	@packaging/setup test
	$(PYTHON) -m pytest -m "stor or fault" -o addopts= tests/stor tests/fault/test_fault_uploads.py \
		--files $(STOR_FILES) --kills $(STOR_KILLS)

lint: ## Format check, lint, types
	@packaging/setup test
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m mypy

check: lint test test-peers test-browser fault-fast stor smoke test-nspawn vm-test ## What a commit must pass

image-steps: ## Kill the image API at every step, and make and remove its objects 1,000 times (root; many minutes)
	@packaging/setup test
	$(PYTHON) -m pytest tests/privileged/test_images_kills.py tests/privileged/test_images_cycles.py --every-step --cycles 1000

zipapp: ## Build dist/nekko.pyz, reproducibly
	@packaging/setup test
	packaging/zipapp

image: zipapp ## Build dist/nekko-image.tar, an image of the zipapp (root)
	@packaging/setup image
	packaging/image

test-image: ## Build the image, and pull through it with podman (root)
	@packaging/setup image
	$(PYTHON) -m pytest -m image -o addopts=

smoke: ## Build the zipapp and try it
	@packaging/setup test
	$(PYTHON) -m pytest -m zipapp -o addopts=

bench: ## Measure against real peers
	@packaging/setup bench
	$(PYTHON) -m bench

test-nspawn: zipapp ## Boot systemd in a container and try the units (root)
	@packaging/setup nspawn
	$(PYTHON) -m pytest -m nspawn -o addopts=

vm-test: zipapp ## Boot a node in a virtual machine: its installation, and what this kernel lacks (root; some minutes)
	@packaging/setup guest
	$(PYTHON) -m pytest -m guest -o addopts= tests/guest

readme: ## Rewrite the generated tables of the README
	@packaging/setup run
	$(PYTHON) -m nekko.config.table README.md

man: ## Write dist/share: the manual page and the completions of this checkout
	@packaging/setup run
	packaging/describe "$$(git log -1 --format=%cs)"

install: ## Install zipapp, units, manual, completions, user and directories (root; DESTDIR is respected)
	packaging/install

uninstall: ## Remove what install put there; the cache stays
	packaging/uninstall

clean: ## Remove what was built
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache
