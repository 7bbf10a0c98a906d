#!/usr/bin/env bash
# run.sh: time the hot paths against the upstream scripts, side by side; about twenty minutes.
#
# BENCH=data       only the preparation of the data, or BENCH=average: only averaging
# ROWS=n           data: rows of the smaller input (default: 19,400)
# TOKENIZER=dir    data: Qwen2.5's, say; without it one of its kind is trained on the input
# AVERAGE_MB=n     average: MB of a checkpoint (default: 3,087); AVERAGE_TIMES=n: runs of each (default: 3)
# BENCH_DIR=dir    for input and output, some 10 GB and some 16 GB; kept. Without it a temporary folder, removed at the end
# BENCH_SAVE=file  write the figures there, too, as JSON; those of averaging to <file>-average.json where both are run
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
help_on_request "$@"
[[ ${BENCH:-data} == data || $BENCH == average ]] || usage "BENCH=$BENCH; it is data or average, or both without it"
load_cluster
open_venv
folder=${BENCH_DIR:-}
if [[ -z $folder ]]; then
    folder=$(mktemp -d -- "${TMPDIR:-/tmp}/bench.XXXXXX")
    trap 'rm -rf -- "$folder"' EXIT
fi
# bench NAME OPTION=VARIABLE...: NAME_bench.py with those options whose variable is set.
bench() {
    local options=() pair name
    for pair in "${@:2}"; do
        name=${pair#*=}
        if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}" "${!name}"); fi
    done
    "$VENV/bin/python" "$ROOT/tests/bench/$1_bench.py" "$folder" "${options[@]}"
}
unset WORKERS DATA_FORMAT DATA_FORM DATA_COLUMNS
if [[ ${BENCH:-data} == data ]]; then bench data rows=ROWS tokenizer=TOKENIZER save=BENCH_SAVE; fi
if [[ -z ${BENCH:-} && -n ${BENCH_SAVE:-} ]]; then BENCH_SAVE=${BENCH_SAVE%.json}-average.json; fi
if [[ ${BENCH:-average} == average ]]; then bench average mb=AVERAGE_MB times=AVERAGE_TIMES save=BENCH_SAVE; fi
