#!/usr/bin/env bash
# data.sh MODEL ROUND: prepare the round's training data. MODEL may be an empty word: OpenMathReasoning's round 1 then.
#
# DATA_SRC=dir      take its parquet or JSONL files in place of the download
# TOKENIZER=dir     in place of the hub's and the base model's: for the round-2 filter, the curation and the report
# LANG_MODEL=file   the curation's fastText language model, in place of the download from LANG_MODEL_URL
# LANG_MODEL_SHA256=hash of that model, where it is not lid.176.ftz
# DATA_FORMAT=parquet, DATA_FORM=messages, DATA_COLUMNS=a,b   other outputs of OpenMathReasoning than input/output JSONL
# REPORT=none      no token lengths and steps per epoch at the end
# WORKERS=n         processes (default: one per core)
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
if [[ $# == 2 && -z $1 ]]; then
    [[ $2 == 1 ]] || usage "say which model, for round $2; only round 1 is the same for several"
    set -- qwen7b 1
    REPORT=none # which counts with one
    log "no MODEL: OpenMathReasoning, round 1, which qwen1.5b, qwen7b, qwen14b and qwen32b train on" >&2
fi
open_stage data "$@"
case ${SCHEMA:-openmath} in
    nemotron)
        known=(tokenizer=TOKENIZER workers=WORKERS)
        known+=(lang-model=LANG_MODEL lang-model-url=LANG_MODEL_URL lang-model-sha256=LANG_MODEL_SHA256)
        ;;
    dolly | squad) known=() ;;
    *) known=(tokenizer=TOKENIZER format=DATA_FORMAT form=DATA_FORM columns=DATA_COLUMNS workers=WORKERS) ;;
esac
for name in DATA_FORMAT DATA_FORM DATA_COLUMNS LANG_MODEL LANG_MODEL_URL LANG_MODEL_SHA256 WORKERS; do
    if [[ " ${known[*]} " == *"=$name "* || -z ${!name:-} ]]; then continue; fi
    # The others may be meant for other calls, or other stages.
    if given "$name" || [[ $name == DATA_* ]]; then usage "$name=${!name} is not for the rows of recipe $MODEL; leave it out"; fi
done
options source=DATA_SRC "${known[@]}"
lock "$WORK/data/.lock" "$(patience)" "make data below $WORK"
stage data "${OPTIONS[@]}"
if [[ ${REPORT:-} != none ]]; then stage tools/report --if-possible ${TOKENIZER:+--tokenizer "$TOKENIZER"}; fi
