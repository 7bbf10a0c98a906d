#!/usr/bin/env bash
# container.sh ENGINE [--check]: build the engine's image from docker/engine.Dockerfile, or from the one of cpu or vllm; its smoke test
# is part of the build.
#
# CONTAINER_RUNTIME=pyxis|enroot   import it as WORK/images/ENGINE-<tag>.sqsh; apptainer: as .sif; else it stays in the
#                                  builder's own store. <tag> stands for all that it is built from: nothing is built twice
# BUILDER=docker|podman|buildah    (default: the first of them that is installed)
# BUILDER_ARGS='--network=host'    more options for its build, separated by blanks
# BASE_IMAGE=...                   another base than docker/versions.env has, say a mirror's; set it for the runs, too
# DRY_RUN=1                        print the exact commands instead
# --check                          only whether it could be built here
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
load_cluster
# shellcheck source=scripts/runtime.sh
. "$ROOT/scripts/runtime.sh"
[[ -n ${1:-} && ($# == 1 || $* == "$1 --check") ]] || usage "say which image, e.g. make container ENGINE=cpu; engines: $(container_engines)"
ENGINE=$1
RUNTIME=$CONTAINER_RUNTIME

# find_builder: BUILDER, or the first that is installed of those whose images the runtime can see.
find_builder() {
    local may=(docker podman buildah) name
    case $RUNTIME in
        docker) may=(docker) ;;
        podman) may=(podman buildah) ;; # they share a store
        enroot | pyxis) may=(docker podman) ;;
    esac
    if [[ -n ${BUILDER:-} ]]; then
        [[ " ${may[*]} " == *" $BUILDER "* ]] || usage "BUILDER=$BUILDER does not go with CONTAINER_RUNTIME=$RUNTIME; take ${may[*]}"
        may=("$BUILDER")
    fi
    for name in "${may[@]}"; do
        if command -v "$name" >/dev/null; then BUILDER=$name && return; fi
    done
    if dry; then BUILDER=${may[0]} && return; fi
    die "there is no ${may[*]} here; install one, or make the image elsewhere and copy WORK/images," \
        "or set CONTAINER_IMAGE to a ready one"
}

# run COMMAND...: with its output in the log; with DRY_RUN only printed.
run() {
    if dry; then
        show "$@"
    else
        "$@" </dev/null >>"$log" 2>&1
    fi
}
# reason: our own smoke test's error in the log, or the builder's, or else its last line. docker numbers its lines.
reason() {
    { grep -aE '^(#[0-9]+ [0-9.]+ )?error: ' "$log" || grep -aiE '^(error|fatal|e:)' "$log" || cat "$log"; } |
        tail -n 1 | cut -c 1-300 | sed -E 's/^(#[0-9]+ [0-9.]+ )?[A-Za-z]*(error|fatal|e): *//I; s/;.*//'
}

has() { # has IMAGE: in the builder's store
    case $BUILDER in
        buildah) buildah inspect --type image "$1" ;;
        *) "$BUILDER" image inspect "$1" ;;
    esac >/dev/null 2>&1
}

# base_digest: of the base as it was pulled.
base_digest() {
    case $BUILDER in
        docker) docker image inspect --format '{{join .RepoDigests " "}}' "$base" ;;
        podman) podman image inspect --format '{{.Digest}}' "$base" ;;
        buildah) buildah inspect --type image --format '{{.FromImageDigest}}' "$base" ;;
    esac | grep -m 1 -oE 'sha256:[0-9a-f]{64}'
}

# versions: what the smoke test wrote into the image, read without running it.
versions() {
    local box status=0
    local file=/opt/nemo-sft-repro/VERSIONS
    if [[ $BUILDER == buildah ]]; then
        box=$(buildah from "$image")
        buildah run --isolation=chroot "$box" cat "$file" || status=$?
        buildah rm "$box" >/dev/null
    else
        box=$("$BUILDER" create "$image" true)
        "$BUILDER" cp "$box:$file" - | tar -xO || status=$?
        "$BUILDER" rm "$box" >/dev/null
    fi
    return "$status"
}

# import: the built image as a file, complete or not at all.
import() {
    local part=$target.part archive=$target.part.tar
    if ! dry; then rm -f -- "$part" "$archive"; fi
    case $RUNTIME-$BUILDER in
        enroot-docker | pyxis-docker) run enroot import --output "$part" "dockerd://$image" ;;
        enroot-* | pyxis-*) run enroot import --output "$part" "podman://$image" ;;
        apptainer-docker) run apptainer build "$part" "docker-daemon:$image" ;;
        apptainer-*)
            run "$BUILDER" push "$image" "docker-archive:$archive" &&
                run apptainer build "$part" "docker-archive:$archive" && run rm -f -- "$archive"
            ;;
    esac && run mv -- "$part" "$target"
}

find_builder
open_work
file=$(container_file "$ENGINE") || exit
base=$(container_base "$ENGINE")
tag=$(container_tag "$ENGINE") || exit
target=$(container_target "$ENGINE") || exit
image=nemo-sft-repro/$ENGINE:$tag
record=$WORK/images/$ENGINE-$tag.$BUILDER.DONE # of what is in the builder's store
if [[ $target == /* ]]; then record=$target.DONE; fi
log=$WORK/images/logs/$ENGINE-$tag.log
read -ra extra <<<"${BUILDER_ARGS:-}"
build=("$BUILDER" build)
if [[ $BUILDER == buildah ]]; then build=(buildah bud); fi
build+=("${extra[@]}" --build-arg BASE_IMAGE="$base")
if [[ $file == */engine.* ]]; then build+=(--build-arg ENGINE="$ENGINE"); fi # a builder warns of one that the file does not take
build+=(--tag "$image" --file "$ROOT/$file" "$ROOT")

if dry && [[ ${2:-} != --check ]]; then
    show "$BUILDER" pull "$base"
    show "${build[@]}"
    if [[ $target == /* ]]; then import; fi
    exit
fi

case $RUNTIME in
    pyxis | enroot) needs=enroot ;;
    *) needs=$RUNTIME ;;
esac
[[ $target != /* ]] || command -v "$needs" >/dev/null ||
    die "there is no $needs here to import the image with; run it where $needs is, or set CONTAINER_RUNTIME"
if [[ ${2:-} == --check ]]; then exit; fi
lock "$WORK/images/.lock" "$(patience)" "make container below $WORK"
if [[ -f $record ]] && if [[ $target == /* ]]; then [[ -f $target ]]; else has "$image"; fi; then
    log "container: $target is already there"
    exit
fi
mkdir -p -- "${log%/*}"
: >"$log"
trap 'rm -f -- "$target".part "$target".part.tar' EXIT
if ! has "$base"; then
    log "container: pulling $base with $BUILDER"
    run "$BUILDER" pull "$base" ||
        die "cannot pull $base ($(reason)); check the network, log in to its registry, set BASE_IMAGE to a mirror's, or take another BUILDER"
fi
digest=$(base_digest) || digest=
if ! has "$image"; then
    log "container: building $image; its log is $log"
    run "${build[@]}" || die "the image of $ENGINE could not be built ($(reason)); see $log, fix $file"
fi
found=$(versions 2>>"$log") || die "$image holds no result of its smoke test; remove it and run this again"
if [[ $target == /* ]]; then
    log "container: importing it as $target"
    import || die "the image could not be imported ($(reason)); see $log, check the space in WORK and TMPDIR"
fi
PYTHONPATH=$ROOT/python python3 -c 'if True:
    import json, sys
    from pathlib import Path
    from sft.lib.done import code_identity
    from sft.lib.files import write_json
    record, engine, base, digest, tag, versions = sys.argv[1:]
    versions, code = json.loads(versions.splitlines()[-1]), code_identity()
    write_json(Path(record), {"engine": engine, "base": base, "base_digest": digest or None, "tag": tag,
                              "versions": versions, "code": code})
' "$record" "$ENGINE" "$base" "$digest" "$tag" "$found" || die "$record could not be written; check the space in WORK"
log "container: $found"
if [[ $base != *@sha256:* && -z ${BASE_IMAGE:-} && -n $digest ]]; then
    log "container: the base was $digest; pin it in docker/versions.env as $(container_key "$ENGINE")_DIGEST"
fi
log "container: $target is ready"
