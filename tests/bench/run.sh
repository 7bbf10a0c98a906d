#!/usr/bin/env bash
# run.sh: time the hot paths against the upstream scripts, side by side; about ten minutes.
#
# ROWS=n           rows of the smaller input (default: 19,400)
# TOKENIZER=dir    Qwen2.5's, say; without it one of its kind is trained on the input
# BENCH_DIR=dir    for input and output, some 10 GB; kept. Without it a temporary folder, removed at the end
# BENCH_SAVE=file  write the figures there, too, as JSON
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
help_on_request "$@"
load_cluster
open_venv
folder=${BENCH_DIR:-}
if [[ -z $folder ]]; then
    folder=$(mktemp -d -- "${TMPDIR:-/tmp}/bench.XXXXXX")
    trap 'rm -rf -- "$folder"' EXIT
fi
options=()
for pair in rows=ROWS tokenizer=TOKENIZER save=BENCH_SAVE; do
    name=${pair#*=}
    if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}" "${!name}"); fi
done
unset WORKERS DATA_FORMAT DATA_FORM DATA_COLUMNS
"$VENV/bin/python" "$ROOT/tests/bench/data_bench.py" "$folder" "${options[@]}"
