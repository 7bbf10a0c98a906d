#!/usr/bin/env bash
# inspect.sh MODEL ROUND [--full]: the first rows as the trainer sees them, and a verdict on what makes runs fail.
#
# ROW=n     that row, from 1, in place of the first three
# --full    leave nothing out of long rows and batches
# NO_COLOR=1   brackets in place of colours
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# -ge 2 ]] || usage 'wrong number of arguments; usage: inspect.sh MODEL ROUND [--full]'
# shellcheck disable=SC2034 # stage reads them
MODEL=$1 ROUND=$2
load_cluster
WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only read, so it need not be writable
open_venv
stage tools/inspect_rows ${ROW:+--row="$ROW"} "${@:3}"
