# Each target works from nothing but Python >= 3.11 with venv, and make; `make help` lists them.
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.ready

# Where `make install` puts things; DESTDIR stages them for a package. The service needs a Python that its user may read.
PREFIX ?= /opt/gridpace
CONFDIR ?= /etc/gridpace
UNITDIR ?= /etc/systemd/system
SYSUSERSDIR ?= /etc/sysusers.d
TMPFILESDIR ?= /etc/tmpfiles.d
BINDIR ?= /usr/local/bin
SERVICE_PYTHON ?= /usr/bin/python3
STAGED_VENV = $(abspath $(DESTDIR)$(PREFIX))/venv

# Tests at once: twice what two cores have, since most of those end to end wait for processes more than they reckon.
WORKERS ?= 4

# uv takes the Python it is given and never downloads another.
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format test-kill test-long test-slices fuzz storm bench schema install

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## make .venv with everything that running, testing and developing needs

$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is not Python >= 3.11 with venv; name one: make setup PYTHON=/usr/bin/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)' \
	  || $(BIN)/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv sync --frozen --all-extras --quiet || { \
	  echo "make: uv sync failed (see above); pip now tries the same versions and hashes through its own settings" >&2; \
	  $(BIN)/uv export --frozen --all-extras --no-emit-project --quiet --output-file .venv/requirements.txt \
	  && $(BIN)/python -m pip install -qq --require-hashes --no-deps -r .venv/requirements.txt \
	  && $(BIN)/python -m pip install -qq --no-deps --editable .; }
	@touch $@

demo: setup ## live through the heat wave of September 2022; prints the address of its page
	$(BIN)/gridpace run --config config/demo.yaml

test: lint ## everything that a change must pass
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

lint: setup ## style, types, direction of imports, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test-kill: export GRIDPACE_KILLS ?= 50
test-kill: setup ## kill -9 at random points, GRIDPACE_KILLS times (50)
	$(BIN)/pytest -m kill --timeout 1800 $(ARGS)

test-long: export HYPOTHESIS_PROFILE ?= long
test-long: setup ## the slow tests too, and many more random examples
	$(BIN)/pytest -n 2 --dist loadgroup --timeout 1800 $(ARGS)

test-slices: setup ## the random problems of test-long, some at a time; ARGS="--state FILE --processes 2 --minutes 4"
	$(BIN)/python -m tests.slices $(ARGS)

fuzz: export GRIDPACE_FUZZED_EVENTS ?= 200000
fuzz: setup ## nonsense over each DR channel, GRIDPACE_FUZZED_EVENTS messages (200,000); GRIDPACE_FUZZ_SEED for others
	$(BIN)/pytest -n 2 --timeout 7200 tests/property/test_fuzzed_channels.py tests/property/test_openadr3.py -k "refused or fuzzed" $(ARGS)

storm: setup ## a thousand random events with faults through the real loops, half an hour; ARGS="--seed N --case K" for one
	$(BIN)/python -m benchmarks.storm $(ARGS)

bench: setup ## every benchmark; each prints its figures
	$(BIN)/python -m benchmarks $(ARGS)

schema: setup ## write again what is generated from the configuration's models
	$(BIN)/gridpace schema --write

install: setup ## install the service below PREFIX (/opt/gridpace); run again to upgrade; starts nothing
	test -x $(STAGED_VENV)/bin/python || $(BIN)/uv venv --quiet --relocatable --python $(SERVICE_PYTHON) $(STAGED_VENV)
	UV_PROJECT_ENVIRONMENT=$(STAGED_VENV) $(BIN)/uv sync --quiet --frozen --no-dev --all-extras --no-editable \
	  --link-mode copy --compile-bytecode --reinstall-package gridpace
	rm -f $(STAGED_VENV)/.lock
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(UNITDIR) && install -d -m 750 $(DESTDIR)$(CONFDIR)
	ln -sf $(PREFIX)/venv/bin/gridpace $(DESTDIR)$(BINDIR)/gridpace
	for unit in gridpace gridpace-agent gridpace-agent-fleet gridpace-gateway gridpace-coordinator; do \
	  sed -e 's#/opt/gridpace/#$(PREFIX)/#g' -e 's#/etc/gridpace/#$(CONFDIR)/#g' systemd/$$unit.service \
	    > $(DESTDIR)$(UNITDIR)/$$unit.service || exit 1; done
	install -D -m 644 systemd/gridpace.sysusers $(DESTDIR)$(SYSUSERSDIR)/gridpace.conf
	install -d $(DESTDIR)$(TMPFILESDIR) \
	  && sed 's#/etc/gridpace#$(CONFDIR)#' systemd/gridpace.tmpfiles > $(DESTDIR)$(TMPFILESDIR)/gridpace.conf
	for file in gridpace gateway coordinator; do test -e $(DESTDIR)$(CONFDIR)/$$file.yaml \
	  || install -m 640 config/$$file.yaml $(DESTDIR)$(CONFDIR)/$$file.yaml || exit 1; done
	test -e $(DESTDIR)$(CONFDIR)/agent.env || install -m 640 systemd/agent.env $(DESTDIR)$(CONFDIR)/agent.env
ifeq ($(DESTDIR),)
	systemd-sysusers $(SYSUSERSDIR)/gridpace.conf && systemd-tmpfiles --create $(TMPFILESDIR)/gridpace.conf
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "Next: edit $(CONFDIR)/gridpace.yaml, then gridpace check --config $(CONFDIR)/gridpace.yaml,"
	@echo "then systemctl enable --now gridpace-agent gridpace. An upgrade takes effect with systemctl restart."
endif
