# shellcheck shell=bash
# Sourced by lib.sh: Slurm's programs, called so that only what this project says counts; and a site's own options.
#
# SBATCH_ARGS='--name=value ...'   more options for every sbatch of a chain, with blanks between
# GPUS_FLAG=gpus-per-node|gres     how GPUS are asked for, with :TYPE for a type of GPU; none where Slurm does not count them

# What a site or a user may choose for all jobs by sbatch's own variables.
sbatch_kept='SBATCH_(ACCOUNT|ACCTG_FREQ|CLUSTERS|CONSTRAINT|CORE_SPEC|CPU_FREQ_REQ|DELAY_BOOT|GPU_FREQ|GRES_FLAGS|HINT'
sbatch_kept+='|MEM_PER_CPU|MEM_PER_GPU|MEM_PER_NODE|NETWORK|PARTITION|POWER|PROFILE|QOS|REQ_SWITCH|RESERVATION|SEGMENT_SIZE'
sbatch_kept+='|THREAD_SPEC|TIMELIMIT|WAIT_ALL_NODES|WAIT4SWITCH|WCKEY)'

# slurm PROGRAM ARG...: one of Slurm's programs without the variables by which the user's shell, or a job around this one,
# would give it options, filters and formats. squeue's times are seconds since the epoch. Kept is what says which Slurm it is;
# for srun the job; for sbatch the variables above.
slurm() {
    local keep='SLURM_(CONF|CONF_SERVER|CLUSTERS|WORKING_CLUSTER|JWT|SACK_[A-Z_]*)' name words=(env) set=()
    case $1 in
        squeue) set=(SLURM_TIME_FORMAT=%s) ;;
        srun) keep+='|SLURM_JOB_?ID' ;;
        sbatch)
            keep+="|$sbatch_kept"
            if [[ -n ${SLURM_JOB_ID:-} ]]; then words+=(-u CUDA_VISIBLE_DEVICES -u TMPDIR); fi # of the job around
            ;;
    esac
    while read -r name; do
        [[ $name =~ ^($keep)$ ]] || words+=(-u "$name")
    done < <(compgen -e | grep -E '^(SLURMD?|SALLOC|SBATCH|SRUN|SQUEUE|SACCT|SCONTROL|SCANCEL|PMI|PMIX)_' || true)
    "${words[@]}" "${set[@]}" "$@"
}

# step OPTION... COMMAND...: a step of the job, also from inside another, which it would else wait for; with this
# environment, also where the job has come without (SBATCH_EXPORT=NONE).
step() { slurm srun --overlap --export=ALL "$@"; }

# job_hosts: the job's nodes, one a line, whatever else a site's scontrol may print before them.
job_hosts() { slurm scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -xE '[A-Za-z0-9._-]+' | tail -n "$SLURM_JOB_NUM_NODES"; }

# job_cpus: of this node, as Slurm counts them. salloc's shell has only the list of all nodes, like 16(x2),8.
job_cpus() {
    local list=${SLURM_CPUS_ON_NODE:-${SLURM_JOB_CPUS_PER_NODE:-$(nproc)}}
    printf '%s\n' "${list%%[!0-9]*}"
}

# job_end: when the job ends, in seconds since the epoch; nothing where it has no limit. squeue takes precedence over the
# variable, which Slurm sets when the job starts: a limit may be changed later.
job_end() {
    local end='' try
    for try in 1 2 3; do
        end=$(slurm squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null | grep -xE '[0-9]{9,}|N/A|NONE|UNLIMITED' | tail -n 1) && break
        if ((try < 3)); then sleep 2; fi
    done
    end=${end:-${SLURM_JOB_END_TIME:-}}
    [[ $end =~ ^([0-9]{9,}|N/A|NONE|UNLIMITED)$ ]] ||
        die "the end of job $SLURM_JOB_ID cannot be read (squeue does not say); fix squeue on the nodes, or set SAVE_RESERVE=0 for links that save only at SAVE_EVERY"
    if [[ $end =~ ^[0-9]+$ ]]; then printf '%s\n' "$end"; fi
}

# sbatch_dropped: the variables of sbatch that do not count, nothing where there are none.
sbatch_dropped() { compgen -e | grep '^SBATCH_' | grep -vxE "$sbatch_kept|SBATCH_(ARGS|EXPORT)" | paste -sd ' ' || true; }

# foreign_variables: those of Slurm's programs that `slurm` drops, outside of a job.
foreign_variables() {
    [[ -z ${SLURM_JOB_ID:-} ]] || return 0
    compgen -e | grep -E '^(SLURM|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SINFO|SCONTROL|SCANCEL|SACCTMGR)_' |
        grep -vxE "$sbatch_kept|SBATCH_ARGS|SLURM_(CONF|CONF_SERVER|CLUSTERS|WORKING_CLUSTER|JWT|SACK_[A-Z_]*)" | paste -sd ' ' || true
}

# job_number: of sbatch's answer on standard input. A site's wrapper or plugin may talk around it.
job_number() { sed -nE 's/^([0-9]+)(;[^ ;]+)?$/\1/p; s/^Submitted batch job ([0-9]+)( .*)?$/\1/p' | tail -n 1; }

# gpus_option N: sets GPUS_OPTION, the words by which sbatch and srun give N GPUs of a node.
gpus_option() {
    local form=${GPUS_FLAG:-} type=''
    check_option GPUS_FLAG
    if [[ $form == *:* ]]; then type=${form#*:}: form=${form%%:*}; fi
    # shellcheck disable=SC2034 # for the caller
    case $form in
        none) GPUS_OPTION=() ;;
        gres) GPUS_OPTION=(--gres="gpu:$type$1") ;;
        *) GPUS_OPTION=(--gpus-per-node="$type$1") ;;
    esac
}

# site_options: sets SITE_OPTIONS, the words of SBATCH_ARGS: long options, and none that the project sets itself or that
# would change what sbatch answers. sbatch takes the beginning of a name for the name.
site_options() {
    local word name own
    SITE_OPTIONS=()
    read -rd '' -a SITE_OPTIONS <<<"${SBATCH_ARGS:-}" || true
    for word in "${SITE_OPTIONS[@]}"; do
        [[ $word =~ ^--([a-z][a-z0-9-]*)(=.+)?$ ]] ||
            usage "SBATCH_ARGS: '$word' is not an option; write --name or --name=value, with blanks between options only"
        name=${BASH_REMATCH[1]}
        for own in gpus gpus-per-node gpus-per-socket gpus-per-task gres; do
            [[ $own != "$name"* ]] || usage "SBATCH_ARGS: --$name is the recipe's; say in GPUS_FLAG how GPUs are asked for"
        done
        for own in exclusive array batch chdir clusters dependency error export export-file get-user-env gid help input job-name \
            kill-on-invalid-dep nodes ntasks ntasks-per-node open-mode output parsable quiet test-only time uid usage version wait wrap; do
            [[ $own != "$name"* ]] || usage "SBATCH_ARGS: --$name is set here; leave it out (SBATCH_TIMELIMIT, EXCLUSIVE, RUN_AFTER do it where it can be done)"
        done
    done
}
