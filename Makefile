# Every target first installs what it needs into .venv; a second time that takes no time.
# PYTHON=… chooses another Python (3.11 or newer), ARGS=… is passed on to pytest, the fuzzing kit or the benchmarks.

ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
  $$name -c 'import sys; sys.version_info < (3, 11) and sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)
endif
INSTALL = $(if $(PYTHON),$(PYTHON),$(error no Python 3.11 or newer was found; name one: make PYTHON=...)) tools/install.py
MINUTES = 3
# A network of its own for what binds all interfaces
ALONE = $(if $(filter Linux,$(shell uname)),unshare --map-root-user --net sh -c 'ip link set lo up && exec "$$@"' sh)
QUESTION = Why does the sea look blue on a sunny day?

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help install demo test test-fast test-clients test-engines fuzz check bench dist

help:
	@echo 'make demo     two real models with different tokenizers answer a question together'
	@echo 'make test     run the tests, with real models'
	@echo 'make test-fast  only those without models, real tokenizers and patience'
	@echo 'make test-clients  run popular clients, installed into .clients-venv, against the demo pair'
	@echo 'make test-engines  run members behind llama-server, vLLM and Ray, installed into .engines-venv'
	@echo 'make docs     build the documentation as a site, in site/'
	@echo 'make fuzz     try hostile requests and files on a server and on doctor, for MINUTES=$(MINUTES)'
	@echo 'make check    style, types and the import rule'
	@echo 'make bench    run the benchmarks (installs a third model, 1.1 GB)'
	@echo 'make dist     build the wheel and the sdist, and try the wheel alone'
	@echo 'make install  only install, into .venv'

install:
	@$(INSTALL)

demo:
	@$(INSTALL)
	@echo 'SmolLM2 and Gemma 3, two models with different tokenizers, now write one answer together.'
	@echo 'Question: $(QUESTION)'
	@.venv/bin/unisono run examples/duo.yaml --stop 'Question:' '$(QUESTION)'
	@echo 'README.md shows what each model alone would say, and how they voted.'

test:
	@$(INSTALL) tests
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast:
	@$(INSTALL)
	.venv/bin/python -m pytest -n 2 --dist worksteal -m 'not models and not tokenizers and not slow' $(ARGS)

test-clients:
	@$(INSTALL)
	@.venv/bin/python tools/install_clients.py
	UNISONO_CLIENTS=$(CURDIR)/.clients-venv .venv/bin/python -m pytest tests/clients $(ARGS)

# Engines start many processes, each of which would compile all that it imports
test-engines: export PYTHONDONTWRITEBYTECODE =
test-engines:
	@$(INSTALL) trio
	@.venv/bin/python tools/install_engines.py
	UNISONO_ENGINES=$(CURDIR)/.engines-venv .venv/bin/python -m pytest tests/engines --ignore tests/engines/on_ray $(ARGS)
	UNISONO_ENGINES=$(CURDIR)/.engines-venv $(ALONE) .engines-venv/ray/bin/python -m pytest tests/engines/on_ray $(ARGS)

.PHONY: docs
docs:
	@$(INSTALL) docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
	@echo 'Open site/index.html; to search it, too: cd site && python3 -m http.server'

fuzz:
	@$(INSTALL)
	PYTHONPATH=$(CURDIR)/tests .venv/bin/python -m fuzz --minutes $(MINUTES) $(ARGS)

check:
	@$(INSTALL)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy tools
	MYPYPATH=tests .venv/bin/mypy --follow-imports silent -p fuzz
	.venv/bin/lint-imports

bench:
	@$(INSTALL) tests qwen
	.venv/bin/python benchmarks/run.py $(ARGS)

dist:
	@$(INSTALL)
	.venv/bin/python tools/dist.py $(ARGS)
