# `make demo` and `make test` need Python 3.11 or newer and make; they install the rest into .venv.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
now := $(shell date +%s)
took = @echo "make $@: $$(( $$(date +%s) - $(now) )) s"

.PHONY: help demo test test-all check english release-check format messages gettext endpoints requirements clean

help:
	@echo "make demo          the example site on http://localhost:8000, with users, notes and an identity provider"
	@echo "make test          the fast tests: on SQLite, and on PostgreSQL and MariaDB if they answer"
	@echo "make test-all      all tests: also the slow ones, and those with Chromium and node if they are installed"
	@echo "make check         ruff, mypy, migrations, the example's production settings"
	@echo "make english       list phrases that docs/english.md advises against"
	@echo "make release-check check that translations are complete, current and compiled, with GNU gettext"
	@echo "make format        ruff format"
	@echo "make messages      collect texts into platform_auth/locale and compile them, with GNU gettext"
	@echo "make endpoints     add missing endpoints to the table in the README"
	@echo "make requirements  update requirements/*.txt"
	@echo "make clean         delete .venv, caches and the demo's database"

demo: .venv/demo.stamp
	@$(BIN)/python example_project/manage.py demo --since $(now)

test-all: export TEST_ALL := 1
test test-all: .venv/test.stamp
	@BIN=$(BIN) sh tests/run.sh
	$(took)

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd example_project && PYTHONPATH=. ../$(BIN)/mypy --cache-dir ../.mypy_cache/example .
	@for model in email default; do \
	  TEST_USER_MODEL=$$model $(BIN)/django-admin makemigrations platform_auth --check --dry-run \
	    --settings tests.settings --pythonpath . || exit 1; \
	done
	$(BIN)/python example_project/manage.py makemigrations --check --dry-run
	DEBUG=0 SECRET_KEY=$$($(BIN)/python -c "import secrets; print(secrets.token_urlsafe(60))") \
	  ALLOWED_HOSTS=notes.example PUBLIC_URL=https://notes.example DATABASE_URL=sqlite:///:memory: \
	  CACHE_URL=rediscache://127.0.0.1:6379/1 EMAIL_URL=smtp+tls://user:password@mail.example:587 \
	  $(BIN)/python example_project/manage.py check --deploy --fail-level WARNING
	$(took)

format: .venv/test.stamp
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

english: .venv/test.stamp
	$(BIN)/python -m tests.english

release-check: .venv/test.stamp gettext
	$(BIN)/python -m pytest --quiet tests/release_check.py
	$(took)

messages: .venv/test.stamp gettext
	cd platform_auth && for language in locale/*; do \
	  ../$(BIN)/django-admin makemessages --locale $${language#locale/} --no-obsolete --no-wrap --add-location file || exit 1; \
	done
	cd platform_auth && ../$(BIN)/django-admin compilemessages

gettext:
	@for tool in msgfmt xgettext; do command -v $$tool >/dev/null || { \
	  echo "$$tool of GNU gettext is needed: apt-get install gettext, dnf install gettext or brew install gettext"; exit 1; }; \
	done

endpoints: .venv/test.stamp
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python -m tests.endpoint_table

requirements: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --no-header --no-emit-index-url \
	  requirements/demo.in -o requirements/demo.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --no-header --no-emit-index-url \
	  requirements/test.in -o requirements/test.txt

clean:
	rm -rf .venv .tox .cache .mypy_cache .ruff_cache .pytest_cache dist example_project/db.sqlite3* example_project/outbox

# Every package is a wheel, so no compiler is needed.
.venv/%.stamp: requirements/%.txt pyproject.toml | $(UV)
	@echo "Installing requirements/$*.txt"
	@$(UV) pip install --quiet --python $(BIN)/python --only-binary :all: -r requirements/$*.txt
	@touch $@

$(UV):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "Python 3.11 or newer is needed. Choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
