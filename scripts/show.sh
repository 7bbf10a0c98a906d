#!/usr/bin/env bash
# show.sh MODEL ROUND: print a recipe. ENGINE_CONFIG=1: the engine's own configuration of it instead.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 2 ]] || usage 'wrong number of arguments; usage: show.sh MODEL ROUND'
[[ -n ${ENGINE_CONFIG:-} ]] || exec python3 "$ROOT/python/recipe.py" -- "$1" "$2"
load_cluster
load_recipe "$1" "$2"
WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only named: nothing is written
case $ENGINE in
    nemo-rl) python3 "$ROOT/python/nemo_rl.py" "$1" "$2" --work "$WORK" ;;
    automodel)
        open_venv
        "$VENV/bin/python" "$ROOT/python/train.py" "$1" "$2" --work "$WORK" --render
        ;;
    nemo2) python3 "$ROOT/python/nemo2.py" "$1" "$2" --work "$WORK" --render ;;
    *) die "the configuration of engine $ENGINE is not here yet; show the recipe without ENGINE_CONFIG" ;;
esac
