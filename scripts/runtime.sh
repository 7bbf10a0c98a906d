# shellcheck shell=bash
# Sourced after lib.sh: what to put before a command so that it runs in an engine's container, one function for all
# of the runtimes. Everything is mounted at its own path, so that a path means the same inside and outside.
#
# CONTAINER_RUNTIME=pyxis|enroot|apptainer|docker|podman|none   (default: none, the host's own Python)
# CONTAINER_IMAGE=...                in place of the image that make container made; a file or a reference
# CONTAINER_MOUNTS=src[:dst[:ro]],...   more folders than WORK, the code and HF_HOME
# BASE_IMAGE=...                     the image was made from this base (see container.sh)
load_defaults

# pinned NAME: a value of docker/versions.env.
pinned() { sed -n "s/^$1=//p" "$ROOT/docker/versions.env"; }

container_key() { tr 'a-z-' 'A-Z_' <<<"$1"; } # of ENGINE there

# container_base ENGINE: the reference of the image that ENGINE's is built on.
container_base() {
    local key image digest
    key=$(container_key "$1")
    image=$(pinned "${key}_IMAGE") digest=$(pinned "${key}_DIGEST")
    # By digest alone where one is pinned: not every builder takes a reference with both.
    if [[ $digest != unset ]]; then image=${image%:*}@$digest; fi
    printf '%s\n' "${BASE_IMAGE:-$image}"
}

# container_file ENGINE: the Dockerfile of ENGINE's image.
container_file() {
    [[ ", $(container_engines), " == *", $1, "* ]] || usage "there is no image for engine '$1'; it is $(container_engines)"
    case $1 in
        cpu | vllm) printf 'docker/%s.Dockerfile\n' "$1" ;;
        *) printf 'docker/engine.Dockerfile\n' ;;
    esac
}
container_engines() {
    local names
    mapfile -t names < <(sed -n 's/_IMAGE=.*//p' "$ROOT/docker/versions.env" | tr 'A-Z_' 'a-z-' | LC_ALL=C sort)
    printf -v names '%s, ' "${names[@]}"
    printf '%s\n' "${names%, }"
}

# container_tag ENGINE: identifies the image by what it is built from.
container_tag() {
    local file copied
    file=$(container_file "$1") || exit
    # The files that the Dockerfile copies are all that it can see of the repository.
    mapfile -t copied < <(awk '$1 == "COPY" { for (i = 2; i < NF; i++) print $i }' "$ROOT/$file")
    {
        printf '%s\n' "$1" # two engines may have the same base
        container_base "$1"
        (cd "$ROOT" && cat "$file" "${copied[@]}")
    } | sha256sum | cut -c1-12
}

# container_target ENGINE: where make container puts ENGINE's image for CONTAINER_RUNTIME: a file, or a local reference.
container_target() {
    local tag suffix=''
    check_option CONTAINER_RUNTIME
    tag=$(container_tag "$1") || exit
    case $CONTAINER_RUNTIME in
        pyxis | enroot) suffix=sqsh ;;
        apptainer) suffix=sif ;;
    esac
    if [[ -n $suffix ]]; then
        printf '%s\n' "$WORK/images/$1-$tag.$suffix"
    else
        printf '%s\n' "nemo-sft-repro/$1:$tag"
    fi
}

# container_image ENGINE: the image to run; checked to be there.
container_image() {
    local image=${CONTAINER_IMAGE:-} remedy="set ${IMAGE_OPTION:-CONTAINER_IMAGE} to one that is there"
    if [[ -z $image ]]; then
        image=$(container_target "$1") || exit
        remedy="run: make container ENGINE=$1 CONTAINER_RUNTIME=$CONTAINER_RUNTIME"
    fi
    printf '%s\n' "$image"
    if dry; then return; fi
    if [[ $image == /* ]]; then
        [[ -e $image ]] || die "there is no image $image; $remedy"
    elif [[ -z ${CONTAINER_IMAGE:-} ]]; then # of another reference, the runtime knows where to get it
        command -v "$CONTAINER_RUNTIME" >/dev/null || die "there is no $CONTAINER_RUNTIME here; install it or set CONTAINER_RUNTIME"
        "$CONTAINER_RUNTIME" image inspect "$image" >/dev/null 2>&1 || die "$CONTAINER_RUNTIME has no image $image; $remedy"
    fi
}

# container_mounts: what to mount, one src:dst[:ro] a line, outer folders before those inside them. UNMADE: a folder that
# need not be there yet, for make doctor.
container_mounts() {
    local entry src dst flag
    local -a entries=("$ROOT:$ROOT:ro" "$WORK") kept=()
    local -A have=()
    if [[ -n ${HF_HOME:-} && -d ${HF_HOME:-} ]]; then entries+=("$(realpath -s -- "$HF_HOME")"); fi
    IFS=, read -ra kept <<<"${CONTAINER_MOUNTS:-}"
    entries+=("${kept[@]}")
    for entry in "${entries[@]}"; do
        IFS=: read -r src dst flag <<<"$entry"
        dst=${dst:-$src}
        [[ $src == /?* && $dst == /?* && $flag =~ ^(ro)?$ && $src$dst != *[,\ ]* ]] ||
            usage "'$entry' cannot be mounted; give src[:dst[:ro]] with absolute paths without blanks, commas and colons"
        [[ -e $src || $src == "${UNMADE:-}" ]] || dry || die "$src does not exist and cannot be mounted; create it, or fix CONTAINER_MOUNTS"
        src=${src%/} dst=${dst%/}
        [[ -z ${have[$dst]:-} || ${have[$dst]} == "$src:$dst${flag:+:$flag}" ]] ||
            usage "two mounts at $dst; fix CONTAINER_MOUNTS"
        have[$dst]=$src:$dst${flag:+:$flag}
    done
    mapfile -t entries < <(printf '%s\n' "${!have[@]}" | LC_ALL=C sort)
    kept=()
    for dst in "${entries[@]}"; do
        container_covered "${have[$dst]}" || kept+=("${have[$dst]}")
    done
    printf '%s\n' "${kept[@]}"
}

# container_covered MOUNT: whether the innermost of the mounts `kept` around it shows the same folder in the same way.
container_covered() {
    local src dst flag entry around='' s d f
    IFS=: read -r src dst flag <<<"$1"
    for entry in "${kept[@]}"; do
        IFS=: read -r s d f <<<"$entry"
        if [[ $dst == "$d"/* ]]; then around=$entry; fi # sorted: a later one is further in
    done
    IFS=: read -r s d f <<<"$around"
    [[ -n $around && $src == "$s${dst#"$d"}" && $flag == "$f" ]]
}

# container_names: of the exported variables, those that a training process may need.
container_names() {
    compgen -e | LC_ALL=C sort | grep -xE "$(
        printf '%s|' HF_TOKEN HF_HOME HF_HUB_OFFLINE WORK ROOT MODEL ROUND LINK_END LINK_STEPS LINK_STOP \
            OMP_NUM_THREADS OMP_WAIT_POLICY TQDM_DISABLE TOKENIZERS_PARALLELISM PYTHONUNBUFFERED PYTHONNOUSERSITE WORLD_SIZE RANK LOCAL_RANK \
            SFT_IMAGE SANDBOX_VENV OPENAI_API_KEY EVAL_WEAK_SANDBOX CUDA_VISIBLE_DEVICES DEVICE NEMO_RL_DIR SETUP_COMMAND PROFILE_STEPS
        printf '%s' '(NRL|VLLM|NCCL|GLOO|SLURM|MASTER|RAY|WANDB)_.*'
    )" || true
}

# container ENGINE: sets SRUN_CONTAINER, options for srun; BOX, the words before a command; and BOX_PYTHON, the Python
# that has the engine. Variables reach the process by name: no value, so no secret, is ever on a command line.
container() {
    local runtime=$CONTAINER_RUNTIME image mounts names=() mount name flag fields
    check_option CONTAINER_RUNTIME
    # shellcheck disable=SC2034 # for the caller
    case $runtime-$1 in
        none-*) BOX_PYTHON=$VENV/bin/python ;;
        *-cpu) BOX_PYTHON=/opt/venv/bin/python ;; # as docker/cpu.Dockerfile has it
        *-vllm) BOX_PYTHON=python3 ;;
        *) BOX_PYTHON=python ;;
    esac
    SRUN_CONTAINER=() BOX=()
    if [[ $runtime == none ]]; then return; fi
    image=$(container_image "$1") || exit
    mounts=$(container_mounts) || exit
    mapfile -t mounts <<<"$mounts"
    mapfile -t names < <(container_names)

    case $runtime in
        pyxis)
            # The flags of NeMo-RL's own launcher. By name, or the image's variables would win.
            mapfile -t names < <(printf '%s\n' "${names[@]}" | grep -v '^SLURM_')
            SRUN_CONTAINER=(
                --container-image="$image"
                --container-mounts="$(IFS=, && printf '%s' "${mounts[*]}")"
                --no-container-mount-home
                --container-workdir="$ROOT"
            )
            if ((${#names[@]})); then SRUN_CONTAINER+=(--container-env="$(IFS=, && printf '%s' "${names[*]}")"); fi
            return
            ;;
        enroot) BOX=(enroot start --rw) ;;
        apptainer)
            # It hands the environment on by itself. A root file system that cannot be written at all breaks caches.
            BOX=(apptainer exec --no-home --writable-tmpfs --pwd "$ROOT")
            if [[ ${DEVICE:-gpu} == gpu ]]; then BOX+=(--nv); fi
            names=()
            ;;
        docker)
            # As the user who calls, so that the files in WORK are theirs; limits as NVIDIA advises for its images.
            BOX=(docker run --rm --network=host --ipc=host --ulimit memlock=-1 --ulimit stack=67108864)
            BOX+=(--user "$(id -u):$(id -g)" --env HOME=/tmp --env USER --workdir "$ROOT")
            if [[ ${DEVICE:-gpu} == gpu ]]; then BOX+=(--gpus all); fi
            ;;
        podman)
            BOX=(podman run --rm --network=host --ipc=host --security-opt label=disable --workdir "$ROOT")
            if [[ ${DEVICE:-gpu} == gpu ]]; then BOX+=(--device nvidia.com/gpu=all); fi
            ;;
    esac
    for mount in "${mounts[@]}"; do
        case $runtime in
            enroot)
                IFS=: read -ra fields <<<"$mount"
                flag=${fields[2]:+,ro}
                BOX+=(--mount "${fields[0]}:${fields[1]}:none:x-create=auto,rbind$flag")
                ;;
            apptainer) BOX+=(--bind "$mount") ;;
            *) BOX+=(--volume "$mount") ;;
        esac
    done
    for name in "${names[@]}"; do BOX+=(--env "$name"); done
    BOX+=("$image")
}
