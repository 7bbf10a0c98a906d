#!/usr/bin/env bash
# model.sh MODEL ROUND: fetch the base model, or check that the model which this round starts from is there.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 2 ]] || usage 'wrong number of arguments; usage: model.sh MODEL ROUND'
MODEL=$1 ROUND=$2
load_cluster
load_recipe "$MODEL" "$ROUND"
open_work
open_venv
lock "$WORK/models/.lock" 1 "make model below $WORK"
stage model
