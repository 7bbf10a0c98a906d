#!/usr/bin/env bash
# lint.sh: the linters over everything that git knows: shellcheck, shfmt, ruff, mypy, hadolint. Needs .venv (make setup).
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/lib.sh"
help_on_request "$@"
[[ $# == 0 ]] || usage 'wrong argument; usage: tests/lint.sh'
cd "$ROOT"
VENV=${VENV:-$ROOT/.venv}
[[ -x $VENV/bin/ruff ]] || die "$VENV has no linters; run: scripts/setup.sh test"
PATH=$VENV/bin:$PATH # the linters are Python packages

mapfile -t shell < <(git ls-files '*.sh' '*.sbatch' .ci/run 2>/dev/null || find scripts sbatch tests .ci -name '*.sh' -o -name '*.sbatch')
printf '%s\0' "${shell[@]}" | xargs -0 -n 4 -P "$(nproc)" shellcheck -x # half a minute of the longest linter
shfmt -i 4 -ci -d "${shell[@]}"
ruff check --quiet python tests docker
ruff format --check --quiet python tests docker
mypy --no-error-summary
hadolint docker/*.Dockerfile
