#!/usr/bin/env bash
# demo.sh: recipe -> data -> model -> report -> train -> convert -> average -> eval -> results for MODEL=tiny, on this machine.
# Training takes two links, as on a cluster with a time limit: the second resumes from the first one's checkpoint.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
MODEL=tiny ROUND=1
load_recipe "$MODEL" "$ROUND"
export LAUNCHER=local LINK_STEPS=$((STEPS / 2))
"$ROOT/scripts/data.sh" "$MODEL" "$ROUND"
"$ROOT/scripts/model.sh" "$MODEL" "$ROUND"
"$ROOT/scripts/report.sh" "$MODEL" "$ROUND"
"$ROOT/scripts/submit.sh" train "$MODEL" "$ROUND"
log "demo: done in $SECONDS s; everything is below $(realpath -ms -- "${WORK:-$ROOT/work}")"
