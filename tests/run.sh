#!/bin/sh
# Run the tests on SQLite, and on PostgreSQL and MariaDB if they answer. Arguments go to pytest.
# Slow tests and those with browsers and node are left out, and races have two rounds. TEST_ALL=1 leaves nothing out.
# TEST_MATRIX=1 also gives each database another host project, so that three runs cover every variant of
# tests/settings.py: user models, ATOMIC_REQUESTS, hostile settings, caches. If a database doesn't answer, its host
# project is tested on SQLite.
BIN=${BIN:-.venv/bin}
failed=
answers() {
	"$BIN/python" - "$1" <<-'END'
		import os, socket, sys
		host = os.environ.get("TEST_DATABASE_HOST", "127.0.0.1")
		try:
		    socket.create_connection((host, int(sys.argv[1])), timeout=2).close()
		except OSError:
		    sys.exit(1)
	END
}
if [ "${TEST_ALL:-}" != 1 ]; then
	echo "== only the fast tests; all of them: make test-all"
	export TEST_ROUNDS="${TEST_ROUNDS:-2}"
fi
for database in sqlite:0 postgres:5432 mariadb:3306; do
	name=${database%:*} port=${database#*:}
	variant= used=$name
	if [ "$port" != 0 ] && ! answers "$port"; then
		echo "== $name: nothing answers on port $port, skipped"
		if [ "${TEST_MATRIX:-}" != 1 ]; then continue; fi
		used=sqlite
	fi
	if [ "${TEST_ALL:-}" != 1 ]; then
		marks="not slow and not browser and not node"
	elif [ "$name" = sqlite ]; then
		marks=
	else
		# Browsers and node don't need another database.
		marks="not browser and not node"
	fi
	if [ "${TEST_MATRIX:-}" = 1 ]; then
		case $name in
		postgres) variant="TEST_USER_MODEL=default TEST_ATOMIC=1 TEST_CACHE=$(answers 6379 && echo redis || echo dummy)" ;;
		mariadb) variant="TEST_HOSTILE=1" ;;
		esac
	fi
	echo "== $used $variant"
	# shellcheck disable=SC2086 # one word per variable
	env $variant TEST_DATABASE=$used "$BIN/python" -m pytest -n 2 --dist loadgroup -m "$marks" "$@" || failed="$failed $name"
done
if [ -n "$failed" ]; then
	echo "failed on:$failed" >&2
	exit 1
fi
