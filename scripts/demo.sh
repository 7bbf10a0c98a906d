#!/usr/bin/env bash
# demo.sh [MODEL]: recipe -> model -> data and its report -> train -> convert -> average -> eval -> results for all rounds
# of tiny or tiny-reasoning, on this machine; tiny also with several samples, code calls and selection.
# Training takes two links, as on a cluster with a time limit: the second resumes from the first one's checkpoint.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
MODEL=${1:-tiny}
load_recipe "$MODEL" 1
[[ $DATASET_SOURCE == generate && $BASE_SOURCE == random ]] ||
    usage "$MODEL is not a demo: it needs data and a model from the hub; run: make demo MODEL=tiny or tiny-reasoning"
export LAUNCHER=local
# shellcheck disable=SC2153 # a key of the recipe
for round in ${ROUNDS//,/ }; do
    load_recipe "$MODEL" "$round"
    export LINK_STEPS=$((STEPS / 2))
    "$ROOT/scripts/model.sh" "$MODEL" "$round" # before the data: curation counts with its tokenizer
    "$ROOT/scripts/data.sh" "$MODEL" "$round"
    "$ROOT/scripts/submit.sh" train "$MODEL" "$round"
done
# The protocol's other modes on a few of the problems: programs that the model writes are run, in the sandbox.
if [[ ${EVAL_PROTOCOL:-} == demo ]]; then
    VENV=$(realpath -ms -- "${VENV:-$ROOT/.venv}")
    "$ROOT/scripts/sandbox.sh"
    BENCH="$EVAL_SET:4" MODE=tir,genselect EVAL_ROWS=30 "$ROOT/scripts/submit.sh" eval "$MODEL" "$round" ||
        die "the part of the evaluation that runs code failed, see above; the chain itself is done"
    "$ROOT/scripts/submit.sh" results "$MODEL" "$round"
fi
log "demo: done in $SECONDS s; everything is below $(realpath -ms -- "${WORK:-$ROOT/work}")"
