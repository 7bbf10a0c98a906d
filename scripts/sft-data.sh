#!/usr/bin/env bash
# sft-data.sh [OPTION...]: make SFT data from model generations, as WORK/data/NAME/round1.
#
# INPUT='gen/output-rs*.jsonl'   graded generations: globs with commas, or else blanks, between
# NAME=mydata                    of the data set
# ARGS='--tokenizer dir --prompt-config generic/math'   options, quoted as in a shell; OPTION... are added to them
# WORKERS=n                      processes (default: one a core)
#
# The options: .venv/bin/python python/tools/sft_data.py --help
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
load_cluster
options=()
for pair in input-files=INPUT name=NAME workers=WORKERS; do
    name=${pair#*=}
    if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}" "${!name}"); fi
done
# Words are split at blanks and quotes as a shell does, but nothing is expanded or run.
mapfile -d '' -t words < <(
    python3 -c 'import shlex, sys; [print(word, end="\0") for word in shlex.split(sys.argv[1])]' "${ARGS:-}" 2>/dev/null
)
wait $! || usage "ARGS=$ARGS has a quote that is not closed; close it"
open_work
open_venv
command=("$VENV/bin/python" "$ROOT/python/tools/sft_data.py" --work "$WORK" "${options[@]}" "${words[@]}" "$@")
if dry; then
    show "${command[@]}"
    exit
fi
lock "$WORK/data/.lock" 1 "make data below $WORK"
TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore "${command[@]}"
