#!/usr/bin/env bash
# run.sh: time the hot paths against the upstream scripts, side by side; some twenty-five minutes.
#
# BENCH=data       only the preparation of the data, or BENCH=curation, BENCH=average, BENCH=eval: only that
# BENCH=vllm       the engine vllm of the evaluation against vLLM's own loop; only when it is asked for, as it builds .venv/vllm
# ROWS=n           data, curation: rows of the smaller input (default: 19,400 and 50,000); eval, vllm: answers (16,384, 128)
# TOKENIZER=dir    data: Qwen2.5's, say, curation: Llama 3.1's; without it one of its kind is trained on the input
# LANG_MODEL=file  curation: lid.176.ftz, say; without it a small one is trained
# AVERAGE_MB=n     average: MB of a checkpoint (default: 3,087); AVERAGE_TIMES=n: runs of each (default: 3)
# BENCH_DIR=dir    for input and output, some 10 GB and some 16 GB; kept. Without it a temporary folder, removed at the end
# BENCH_SAVE=file  write the figures there, too, as JSON; those of the others to <file>-curation.json and so on where all are run
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
help_on_request "$@"
check_options bench
case ${BENCH:-data} in
    data | curation | average | eval | vllm) ;;
    *) usage "BENCH=$BENCH; it is data, curation, average, eval or vllm, or all but the last without it" ;;
esac
load_cluster
open_venv
folder=${BENCH_DIR:-}
if [[ -z $folder ]]; then
    folder=$(mktemp -d -- "${TMPDIR:-/tmp}/bench.XXXXXX")
    trap 'rm -rf -- "$folder"' EXIT
fi
# bench NAME OPTION=VARIABLE...: NAME_bench.py with those options whose variable is set.
bench() {
    options "${@:2}"
    "$VENV/bin/python" "$ROOT/tests/bench/$1_bench.py" "$folder" "${OPTIONS[@]}"
}
unset WORKERS DATA_FORMAT DATA_FORM DATA_COLUMNS
save=${BENCH_SAVE:-}
# due NAME: whether it is asked for; the figures of those after the first go to files of their own.
due() {
    if [[ -z ${BENCH:-} && -n $save && $1 != data ]]; then BENCH_SAVE=${save%.json}-$1.json; fi
    [[ ${BENCH:-$1} == "$1" ]]
}
if due data; then bench data rows=ROWS tokenizer=TOKENIZER save=BENCH_SAVE; fi
if due curation; then bench curation rows=ROWS tokenizer=TOKENIZER lang-model=LANG_MODEL save=BENCH_SAVE; fi
if due average; then bench average mb=AVERAGE_MB times=AVERAGE_TIMES save=BENCH_SAVE; fi
if due eval; then bench eval rows=ROWS save=BENCH_SAVE; fi
if [[ ${BENCH:-} == vllm ]]; then
    "$ROOT/scripts/vllm-cpu.sh"
    bench vllm rows=ROWS save=BENCH_SAVE
fi
