#!/usr/bin/env bash
# given.sh 'TARGET...' NAME...: why make must not take the options NAME for TARGET...; nothing where it may. For the
# Makefile, which knows what stood on its command line.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
(($#)) || usage "wrong number of arguments; usage: given.sh 'TARGET...' NAME..."
read -ra targets <<<"$1"

declare -A heeded
while read -r name; do heeded[$name]=chain,doctor; done < <(sed -nE 's/^#?([A-Z][A-Z0-9_]*)=.*/\1/p' "$ROOT/cluster.env.example")
while read -r name who _; do
    if [[ $name =~ ^[A-Z] ]]; then heeded[$name]=$who; fi
done <"$ROOT/scripts/options.txt"

if [[ -n ${CLUSTER:-} && " ${*:2} " == *' CLUSTER '* ]]; then # before anything is set up
    unknown=$(unknown_cluster "$CLUSTER")
    if [[ -n $unknown ]]; then printf '%s\n' "$unknown" && exit; fi
fi
for name in "${@:2}"; do
    for target in "${targets[@]}"; do
        if heeds "${heeded[$name]:-}" "$target"; then continue 2; fi
    done
    if [[ -n ${heeded[$name]:-} && ${#targets[@]} == 0 ]]; then continue; fi # make alone: the help
    keys=$(python3 "$ROOT/python/tools/recipe.py" --keys)
    in_file="comes from recipes/; copy $(cd "$ROOT" && printf %s recipes/*/"${MODEL:-tiny}.env") to try another value"
    if grep -x -- "$name" >/dev/null <<<"$keys"; then
        printf '%s %s\n' "$name" "$in_file"
    elif [[ -n ${heeded[$name]:-} ]]; then
        who=$(targets "${heeded[$name]}")
        printf '%s is for make %s; leave it out of make %s\n' "$name" "${who//,/, }" "${targets[*]}"
    elif [[ $name == HF_TOKEN || $name == WANDB_API_KEY ]]; then
        printf '%s would be seen on a command line; export it\n' "$name"
    else
        python3 -c 'if True:
            import difflib, sys
            name, in_file, keys, *options = sys.argv[1:]
            keys = keys.split()
            word = name.upper()
            # Slurm has PARTITION, TIME and others as its own, with its prefix; a close spelling comes after that.
            of_slurm = [o for o in sorted(options) if o.replace("_", "").startswith("SBATCH" + word.replace("_", ""))]
            part_of_it = [key for key in keys if key in word.split("_")]  # STEPS of MAX_STEPS
            near = of_slurm[:1] or part_of_it or difflib.get_close_matches(word, [*options, *keys], 1)
            remedy = f"did you mean {near[0]}?" if near else "see cluster.env.example and scripts/options.txt"
            if near and near[0] in keys:
                remedy += f" It {in_file}"
            print(f"there is no option {name}; {remedy}")
        ' "$name" "$in_file" "$keys" "${!heeded[@]}"
    fi
    exit
done
