#!/usr/bin/env bash
# model.sh MODEL ROUND: fetch the base model, or check that the model which this round starts from is there.
#
# MODEL_SRC=dir  take it from there: a folder that has its files, or the hub's cache (HF_HOME)
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage model "$@"
lock "$WORK/models/.lock" "$(patience)" "make model below $WORK"
options=()
if [[ -n ${MODEL_SRC:-} ]]; then options+=(--source "$(realpath -ms -- "$MODEL_SRC")"); fi
stage model "${options[@]}"
