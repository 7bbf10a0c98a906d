#!/usr/bin/env bash
# data.sh MODEL ROUND: prepare the round's training data.
#
# DATA_SRC=dir      take its parquet or JSONL files in place of the download
# TOKENIZER=dir     the tokenizer of the round-2 filter and of the report, in place of the hub's and the base model's
# DATA_FORMAT=parquet, DATA_FORM=messages, DATA_COLUMNS=a,b   other outputs than input/output JSONL
# REPORT=none      no token lengths and steps per epoch at the end
# WORKERS=n         processes (default: one a core)
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
options=()
for pair in source=DATA_SRC tokenizer=TOKENIZER format=DATA_FORMAT form=DATA_FORM columns=DATA_COLUMNS workers=WORKERS; do
    name=${pair#*=}
    if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}" "${!name}"); fi
done
lock "$WORK/data/.lock" 1 "make data below $WORK"
stage data "${options[@]}"
if [[ ${REPORT:-} != none ]]; then stage report --if-possible ${TOKENIZER:+--tokenizer "$TOKENIZER"}; fi
