#!/usr/bin/env bash
# status.sh MODEL ROUND: what each stage of a run is doing. Reads files and squeue, needs neither .venv nor a live Slurm.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 2 ]] || usage 'wrong number of arguments; usage: status.sh MODEL ROUND'
load_cluster
exec python3 "$ROOT/python/tools/status.py" "$1" "$2" --work "${WORK:-$ROOT/work}"
