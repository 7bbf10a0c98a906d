#!/usr/bin/env bash
# run.sh [slow]: what CI runs. Installs what it needs (root on Debian), lints, then runs every test; "slow": the long ones.
# With CI=true a missing tool is a failure; elsewhere the tests that need it are skipped and say so.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/lib.sh"
help_on_request "$@"
[[ $# == 0 || $* == slow ]] || usage 'wrong argument; usage: tests/run.sh [slow]'
cd "$ROOT"
unset MAKEFLAGS MAKEOVERRIDES MFLAGS MAKELEVEL MAKE_GIVEN MODEL ROUND # the make that called us is not the one under test

VENV=${VENV:-$ROOT/.venv}
export VENV
log 'tests: tools'
output=$(mktemp)
trap 'wait; rm -f -- "$output"' EXIT # apt-get is not to be left half-way
tests/install.sh "$@" &              # beside pip, which waits for the network as well
tools=$!
scripts/setup.sh test
sandbox_venv
scripts/sandbox.sh &
sandbox=$!
PATH=$VENV/bin:$PATH # the linters are Python packages
if [[ $# == 0 ]]; then
    log 'tests: lint'
    tests/lint.sh
fi
have_slurm=true
wait "$tools" || have_slurm=false
[[ $have_slurm == true || ${CI:-} != true ]] || exit 1

if [[ ${1:-} == slow ]]; then
    wait "$sandbox"
    scripts/vllm-cpu.sh &
    vllm=$!
    log 'tests: the Slurm that the tests start'
    if [[ $have_slurm == true ]]; then tests/slurm/selftest.sh; fi
    wait "$vllm"
    log 'tests: the slow ones'
    # One process more than in the other tier: the tests of Slurm and Ray wait for time limits and lost nodes.
    python -m pytest -m slow -n 3 --dist loadfile --no-loadscope-reorder --durations=20
    exit
fi

wait "$sandbox"
log 'tests: Python, the real engine, a real Slurm; beside them shell and make'
python -m compileall -q python # bats copies it, and must not meet a file that Python is just writing
shell=
if command -v bats >/dev/null; then
    bats tests >"$output" 2>&1 &
    shell=$!
fi
failed=()
python -m pytest -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder --durations=20 || failed+=(Python)
if [[ $shell ]]; then
    wait "$shell" || failed+=(shell)
    cat -- "$output"
else
    log 'tests: no bats, so nothing of shell and make was tested'
fi
((${#failed[@]} == 0)) || die "tests failed (${failed[*]}); see above"
