#!/usr/bin/env bash
# given.sh 'TARGET...' NAME...: why make must not take the options NAME for TARGET...; nothing where it may. For the
# Makefile, which knows what stood on its command line.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
(($#)) || usage "wrong number of arguments; usage: given.sh 'TARGET...' NAME..."
read -ra targets <<<"$1"

declare -A heeded
while read -r name; do heeded[$name]=chain; done < <(sed -nE 's/^#?([A-Z][A-Z0-9_]*)=.*/\1/p' "$ROOT/cluster.env.example")
while read -r name who _; do
    if [[ $name =~ ^[A-Z] ]]; then heeded[$name]=$who; fi
done <"$ROOT/scripts/options.txt"

for name in "${@:2}"; do
    for target in "${targets[@]}"; do
        if heeds "${heeded[$name]:-}" "$target"; then continue 2; fi
    done
    if [[ -n ${heeded[$name]:-} && ${#targets[@]} == 0 ]]; then continue; fi # make alone: the help
    if python3 "$ROOT/python/tools/recipe.py" --keys | grep -x -- "$name" >/dev/null; then
        printf '%s comes from recipes/; copy %s to try another value\n' "$name" "$(cd "$ROOT" && printf %s recipes/*/"${MODEL:-tiny}.env")"
    elif [[ -n ${heeded[$name]:-} ]]; then
        who=$(targets "${heeded[$name]}")
        printf '%s is for make %s; leave it out of make %s\n' "$name" "${who//,/, }" "${targets[*]}"
    elif [[ $name == HF_TOKEN || $name == WANDB_API_KEY ]]; then
        printf '%s would be seen on a command line; export it\n' "$name"
    else
        python3 -c 'if True:
            import difflib, sys
            near = difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1)
            remedy = f"did you mean {near[0]}?" if near else "see cluster.env.example and scripts/options.txt"
            print(f"there is no option {sys.argv[1]}; {remedy}")
        ' "$name" "${!heeded[@]}"
    fi
    exit
done
