#!/usr/bin/env bash
# demo.sh [MODEL]: recipe -> model -> data and its report -> train -> convert -> average -> eval -> results for all rounds
# of tiny or tiny-reasoning, on this machine.
# Training takes two links, as on a cluster with a time limit: the second resumes from the first one's checkpoint.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
MODEL=${1:-tiny}
load_recipe "$MODEL" 1
[[ $DATASET_SOURCE == generate && $BASE_SOURCE == random ]] ||
    usage "$MODEL is no demo: it needs data and a model from the hub; run: make demo MODEL=tiny or tiny-reasoning"
export LAUNCHER=local
# shellcheck disable=SC2153 # a key of the recipe
for round in ${ROUNDS//,/ }; do
    load_recipe "$MODEL" "$round"
    export LINK_STEPS=$((STEPS / 2))
    "$ROOT/scripts/model.sh" "$MODEL" "$round" # before the data: curation counts with its tokenizer
    "$ROOT/scripts/data.sh" "$MODEL" "$round"
    "$ROOT/scripts/submit.sh" train "$MODEL" "$round"
done
log "demo: done in $SECONDS s; everything is below $(realpath -ms -- "${WORK:-$ROOT/work}")"
