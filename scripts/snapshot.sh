#!/usr/bin/env bash
# snapshot.sh RUN: copy the code to RUN/code/<id> and print that path. A chain runs this copy, however long it queues.
#
# CLUSTER=NAME  with clusters/NAME.env in place of cluster.env
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 1 ]] || usage 'wrong number of arguments; usage: snapshot.sh RUN'

cd "$ROOT"
if [[ -f SNAPSHOT ]]; then # a chain started from a snapshot is that snapshot
    printf '%s\n' "$ROOT"
    exit
fi

done_py() { PYTHONPATH=python python3 -c "import json; from sft.lib.done import CODE, code_identity; $1"; }
mapfile -t code < <(done_py 'print(*CODE, sep="\n")')
code+=(cluster.env.example) # the options' defaults
identity=$(done_py 'print(json.dumps(code_identity()))')
commit=$(done_py 'print(code_identity()["commit"][:12])')
pack=(tar --sort=name --owner=0 --group=0 --mtime=@0 --exclude=__pycache__ -c)
sum=$("${pack[@]}" "${code[@]}" | sha256sum | cut -c1-64)
file=${CLUSTER:+clusters/$CLUSTER.env}
file=${file:-cluster.env}
target=$1/code/$commit-${sum:0:12}${CLUSTER:+-$CLUSTER}
if [[ ! -d $target ]]; then
    part=$1/code/.part-$$
    mkdir -p -- "$part"
    trap 'rm -rf -- "$part"' EXIT
    "${pack[@]}" "${code[@]}" | tar -x -C "$part"
    if [[ -f $file ]]; then cp --parents "$file" "$part"; fi
    printf '%s, "tree_sha256": "%s"}\n' "${identity%\}}" "$sum" >"$part/SNAPSHOT"
    mv -T -- "$part" "$target" 2>/dev/null || [[ -d $target ]] # a second submission may have been faster
fi
printf '%s\n' "$target"
