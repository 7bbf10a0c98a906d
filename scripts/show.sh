#!/usr/bin/env bash
# show.sh MODEL ROUND: print a recipe. ENGINE_CONFIG=1: the engine's own configuration of it instead.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 2 ]] || usage 'wrong number of arguments; usage: show.sh MODEL ROUND'
[[ -n ${ENGINE_CONFIG:-} ]] || exec python3 "$ROOT/python/tools/recipe.py" -- "$1" "$2"
load_cluster
load_recipe "$1" "$2"
WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only named: nothing is written
python=python3
if [[ $ENGINE == automodel ]]; then # its configuration is printed by a YAML library
    open_venv
    python=$VENV/bin/python
fi
"$python" "$ROOT/python/engine.py" "$1" "$2" --work "$WORK" --render
