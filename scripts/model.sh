#!/usr/bin/env bash
# model.sh MODEL ROUND: fetch the base model, or check that the model which this round starts from is there.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
lock "$WORK/models/.lock" 1 "make model below $WORK"
stage model
