#!/usr/bin/env bash
# eval-data.sh MODEL ROUND: fetch the multiple-choice sets that the recipe's EVAL_SET names: GPQA and MMLU.
#
# DATA_SRC=dir  take their files in place of the download
# HF_TOKEN      GPQA is gated: accept its terms on the hub first
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
options=()
if [[ -n ${DATA_SRC:-} ]]; then options+=(--source "$DATA_SRC"); fi
lock "$WORK/data/.lock" 1 "make data below $WORK"
stage tools/eval_data "${options[@]}"
