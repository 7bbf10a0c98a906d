#!/usr/bin/env bash
# data.sh MODEL ROUND: format the round's training data. DATA_SRC=dir takes its files in place of the download.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
options=()
if [[ -n ${DATA_SRC:-} ]]; then options+=(--source "$DATA_SRC"); fi
lock "$WORK/data/.lock" 1 "make data below $WORK"
stage data "${options[@]}"
