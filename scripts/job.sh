# shellcheck shell=bash
# Sourced by every sbatch file, with its STAGE, MODEL and ROUND as arguments: finds the code, the recipe and the folders.
#
# Slurm runs a copy of the sbatch file from its spool folder, so the code is found by CODE (set by submit.sh) or, when
# the file was given to sbatch directly, by the folder of submission; such a job takes its own snapshot when it starts.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "${@:2}"
open_stage "$@"
RUN=$WORK/runs/$MODEL/round$ROUND
check_cluster "$RUN"
if [[ ${SLURM_EXPORT_ENV:-} == NONE && -z ${CODE:-} ]]; then
    log "this job has nothing of the environment that it was queued from (SBATCH_EXPORT=NONE): WORK is $WORK"
fi
if [[ ! -f $ROOT/SNAPSHOT ]]; then
    own=$RUN/code/job-${SLURM_JOB_ID:-local-$$} # a requeued job finds the code that it first started with
    if [[ ! -f $own ]]; then
        code=$("$ROOT/scripts/snapshot.sh" "$RUN")
        printf '%s\n' "$code" >"$own"
        record_cluster "$RUN"
    fi
    ROOT=$(<"$own")
    # shellcheck source=scripts/lib.sh
    . "$ROOT/scripts/lib.sh"
    load_recipe "$MODEL" "$ROUND"
fi
