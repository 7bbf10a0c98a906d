#!/usr/bin/env bash
# report.sh MODEL ROUND: token lengths of the prepared data, and the steps that it makes.
#
# ROWS=n         count n rows, 0: all of them (default: a random 2,000)
# TOKENIZER=dir  in place of the base model's
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
options=()
for pair in rows=ROWS tokenizer=TOKENIZER workers=WORKERS; do
    name=${pair#*=}
    if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}" "${!name}"); fi
done
stage tools/report "${options[@]}"
