#!/usr/bin/env bash
# generate.sh MODEL ROUND: answers of the last checkpoint to the test rows, by NeMo 2.0's own llm.generate, as the Llama 3
# notebooks make them. Needs a GPU: on one machine, or in a Slurm job (srun scripts/generate.sh ... in an allocation).
# make eval measures the exported model instead.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
open_stage "$@"
[[ $ENGINE == nemo2 ]] || usage "engine $ENGINE does not generate by itself; run: make eval MODEL=$MODEL ROUND=$ROUND"
# shellcheck source=scripts/engines/nemo2.sh
. "$ROOT/scripts/engines/nemo2.sh"
engine_generate
