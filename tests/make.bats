#!/usr/bin/env bats
# make and the scripts as a user calls them: help, refusals, dry runs. Nothing here trains.

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
    cd "$ROOT"
    unset WORK CLUSTER LAUNCHER MODEL ROUND JOBS DRY_RUN
    export VENV=${VENV:-$ROOT/.venv}
    TMP=$(mktemp -d)
}

teardown() {
    umount "$TMP/readonly" 2>/dev/null || true
    rm -rf "$TMP"
}

# golden NAME: compare $output, with the temporary folder replaced, with tests/golden/NAME.
golden() {
    diff -u "$ROOT/tests/golden/$1" <(printf '%s\n' "${output//$TMP//TMP}")
}

@test "a bare make prints the targets under five headings, the stages in the chain's order" {
    run make
    [ "$status" -eq 0 ]
    [ "$(grep -E '^[A-Z]' <<<"$output" | paste -sd,)" = "The chain,Look,Runs,Set up,Develop" ]
    chain=$(sed -n '/^The chain/,/^Look/s/^  \([a-z-]*\) .*/\1/p' <<<"$output" | paste -sd,)
    [ "$chain" = data,sft-data,eval-data,model,cache,train,convert,average,eval,generate,results ]
    [ "$(sed -n '/^Look/,/^Set up/s/^  \([a-z-]*\) .*/\1/p' <<<"$output" | paste -sd,)" = show,plan,doctor,report,inspect,status,logs,compare,cancel,clean-run,export,runs ]
    [ "$(grep -c '^  [a-z]' <<<"$output")" -eq "$(grep -vE '^help:' Makefile | grep -cE '^[a-z0-9-]+:.* ## ')" ]
    models=$(sed -n 's/^models: //p' <<<"$output")
    [ "$models" = "$(python3 python/tools/recipe.py --models | paste -sd ' ')" ]
    for model in llama3-lora llama3-sft llama31-8b qwen1.5b qwen14b qwen3-30b-a3b qwen3-8b qwen32b qwen7b reasoning-full \
        reasoning-lora tiny; do
        [[ " $models " == *" $model "* ]]
    done
}

@test "every target of the help exists, and has a script or a job" {
    for stage in train convert average eval results; do [ -f "sbatch/$stage.sbatch" ] && [ -f "python/$stage.py" ]; done
    for stage in data model; do [ -x "scripts/$stage.sh" ] && [ -f "python/$stage.py" ]; done
    for tool in show plan doctor report inspect status logs runs compare cancel clean-run export sft-data eval-data generate; do grep -qF "tool_$tool() {" scripts/tool.sh; done
    while read -r target; do make -n "$target" MODEL=tiny CI=true >/dev/null; done < <(make | awk '/^  [a-z]/ {print $1}')
}

@test "a recipe's key on make's command line is refused with the remedy" {
    run make train MODEL=qwen7b LR=1e-3
    [ "$status" -eq 2 ]
    [[ $output == *"LR comes from recipes/; copy recipes/openmath/qwen7b.env to try another value"* ]]
    [ "${#lines[@]}" -eq 1 ]
}

# refused TEXT OPTION...: make refuses, in one line, or two with its own, and writes nothing.
refused() {
    run make -s "${@:2}" WORK="$TMP/w"
    [ "$status" -eq 2 ] || { echo "make ${*:2}: status $status"; return 1; }
    [[ ${lines[0]} == *"$1"* ]] || { echo "make ${*:2}: ${lines[0]}"; return 1; }
    [ "${#lines[@]}" -eq 1 ] || [[ ${#lines[@]} -eq 2 && ${lines[1]} == make:* ]]
    [ ! -e "$TMP/w" ]
}

@test "an unknown option is refused, with the nearest known one" {
    refused "there is no option LUANCHER; did you mean LAUNCHER?" train MODEL=tiny LUANCHER=slurm
    refused "there is no option SBATCH_TIME_LIMIT; did you mean SBATCH_TIMELIMIT?" train MODEL=tiny SBATCH_TIME_LIMIT=1:00
    refused "there is no option PARTITION; did you mean SBATCH_PARTITION?" train MODEL=tiny PARTITION=batch
    refused "there is no option TIME_LIMIT; did you mean SBATCH_TIMELIMIT?" train MODEL=tiny TIME_LIMIT=1:00
    refused "there is no option launcher; did you mean LAUNCHER?" train MODEL=tiny launcher=slurm
    refused "there is no option MAX_STEPS; did you mean STEPS? It comes from recipes/; copy recipes/tiny/tiny.env" train MODEL=tiny MAX_STEPS=5
    refused "there is no option XQZ; see cluster.env.example and scripts/options.txt" train MODEL=tiny XQZ=1
    refused "HF_TOKEN would be seen on a command line; export it" model MODEL=tiny HF_TOKEN=secret-token
    [[ $output != *secret-token* ]]
}

@test "every option of cluster.env.example is taken on the command line, and every one that a script explains" {
    while IFS='=' read -r name value; do
        value=${value:-1}
        case $name in
            MODEL_SRC) continue ;; # make model's, below
            LAUNCHER) value=slurm ;;
            SBATCH_ARGS) value=--hold ;;
            RAY_CPUS) value=9 ;;
            CONTAINER_IMAGE) value=/image ;;
            BASE_IMAGE | CONTAINER_MOUNTS | HF_HOME) value=$TMP ;;
            NEMO_RL_VERSION) value=0.7 ;;
            WORK) value=$TMP/w ;;
        esac
        run make -s train MODEL=llama31-8b LAUNCHER=slurm DRY_RUN=1 WORK="$TMP/w" "$name=$value"
        [ "$status" -eq 0 ] || { echo "$name=$value: $output"; false; }
    done < <(sed -nE 's/^#?([A-Z][A-Z0-9_]*=[^ ]*)$/\1/p' cluster.env.example)
    run make -s model MODEL=qwen7b MODEL_SRC=/models DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [[ $output == *"--source /models" ]]
    # NAME=value, or NAME as a word of its own, at the beginning of a line of a script's header
    known=$(sed -nE 's/^#?([A-Z][A-Z0-9_]*)[= ].*/\1/p' cluster.env.example scripts/options.txt)
    for name in $(sed -nE 's/^# ([A-Z][A-Z0-9_]+)=.*/\1/p' scripts/*.sh sbatch/* tests/bench/run.sh | sort -u); do
        [[ $name == SLURM_CONF ]] || grep -qx "$name" <<<"$known" || { echo "no option $name"; false; }
    done
    [ -z "$(ls "$TMP")" ]
}

@test "what a target, the recipe's engine or the recipe has no use for is refused" {
    refused "JOBS is for make train; leave it out of make data" data MODEL=tiny JOBS=2
    refused "DRY_RUN is for make " clean DRY_RUN=1
    refused "leave it out of make setup" setup DRY_RUN=1
    refused "ROUND is for make " demo ROUND=2
    refused "TRACE is for make check-nemo-rl; leave it out of make check-nemo2" check-nemo2 TRACE=x
    refused "ENGINE comes from recipes/; copy recipes/tiny/tiny.env to try another value" train MODEL=tiny ENGINE=cpu
    refused "error: LINK_STEPS=5: engine nemo-rl of this recipe takes no notice of it, only automodel and nemo2; leave it out" \
        train MODEL=qwen7b LAUNCHER=slurm LINK_STEPS=5
    run env LINK_STEPS=5 DRY_RUN=1 WORK="$TMP/w" LAUNCHER=slurm scripts/submit.sh train qwen7b 1
    [ "$status" -eq 2 ]
    for option in JOBS=3 RUN_AFTER=7 TIME_MIN=1:00 MAIL_USER=me EXCLUSIVE=no SBATCH_QOS=x SBATCH_ARGS=--hold; do
        refused "error: $option is for Slurm's jobs; use LAUNCHER=slurm, or leave it out" train MODEL=tiny "$option"
    done
    for round in 1 nemo2; do
        for option in KEEP_CHECKPOINTS=all PROFILE_STEPS=3:5; do
            refused "error: $option: engine " train MODEL=reasoning-lora ROUND="$round" "$option"
            run env "$option" DRY_RUN=1 WORK="$TMP/w" scripts/submit.sh train reasoning-lora "$round"
            [ "$status" -eq 2 ]
        done
        # What is the cluster's may stand in its file or the environment for every recipe.
        for option in RAY_WAIT=60 RAY_CPUS=9 RAY_TRIES=1 RAY_TMPDIR=/x SET_UP_RESERVE=5 NEMO_RL_VERSION=0.7 NEMO_RL_DIR=/x \
            SETUP_COMMAND=x; do
            refused "error: $option: engine " train MODEL=reasoning-lora ROUND="$round" "$option"
            run env "$option" DRY_RUN=1 WORK="$TMP/w" scripts/submit.sh train reasoning-lora "$round"
            [ "$status" -eq 0 ]
        done
        run make -s train MODEL=reasoning-lora ROUND="$round" WANDB_PROJECT=x DRY_RUN=1 WORK="$TMP/w" # every engine's
        [ "$status" -eq 0 ]
    done
    refused "error: NEMO2_PYTHON=/x: engine automodel" train MODEL=tiny NEMO2_PYTHON=/x
    refused "error: NEMO_RL_VERSION=next: engine automodel" show MODEL=tiny ENGINE_CONFIG=1 NEMO_RL_VERSION=next
    refused "recipe qwen7b trains no adapter; leave out MERGE=1" train MODEL=qwen7b LAUNCHER=slurm MERGE=1
    refused "EVAL_TASKS=4 is for Slurm's jobs; use LAUNCHER=slurm, or leave it out" eval MODEL=tiny EVAL_TASKS=4
    refused "averages nothing; leave out REMOVE_AFTER_AVERAGE=1" train MODEL=reasoning-lora REMOVE_AFTER_AVERAGE=1
    refused "LANG_MODEL=/x is not for the rows of recipe qwen7b; leave it out" data MODEL=qwen7b LANG_MODEL=/x DRY_RUN=1
    refused "WORKERS=2 is not for the rows of recipe llama3-sft; leave it out" data MODEL=llama3-sft WORKERS=2 DRY_RUN=1
    refused "DATA_FORM=messages is not for the rows of recipe reasoning-lora; " data MODEL=reasoning-lora DATA_FORM=messages DRY_RUN=1
    [ -z "$(ls "$TMP")" ]
}

@test "a stage without MODEL says how" {
    run make -s train
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: say which model, e.g. make train MODEL=qwen7b; models: "* ]]
}

@test "show prints the recipe" {
    run make -s show MODEL=qwen7b ROUND=2exact
    [ "$status" -eq 0 ]
    [[ $output == *$'\nLR=2e-4\n'* && $output == *$'\nSTEPS=10000\n'* ]]
}

@test "show prints the engine's configuration" {
    run make -s show MODEL=qwen7b ENGINE_CONFIG=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *$'\npolicy.megatron_cfg.optimizer.lr=0.0002\n'* && $output == *"data_path=$TMP/w/data/"* ]]
    run make -s show MODEL=tiny ENGINE_CONFIG=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *$'\nstep_scheduler:\n'* ]]
    run make -s show MODEL=reasoning-lora ROUND=nemo2 ENGINE_CONFIG=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *'_target_: "nemo.collections.llm.import_ckpt"'* && $output == *"$TMP/w/runs/reasoning-lora/roundnemo2/"* ]]
    run make -s show MODEL=llama3-lora ROUND=published ENGINE_CONFIG=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *'_target_: "nemo.collections.llm.'* ]]
    [ -z "$(ls "$TMP")" ]
}

@test "the tutorials' recipes: shown, planned and checked by what each round is" {
    for round in 1 nemo2 published; do
        for model in reasoning-lora reasoning-full llama3-sft llama3-lora; do
            run make -s show MODEL="$model" ROUND="$round"
            [ "$status" -eq 0 ]
            [[ $output == *$'\nVARIANT='* ]]
        done
        run make -s plan MODEL=llama3-lora ROUND="$round" WORK="$TMP/w"
        [ "$status" -eq 0 ]
        [[ ${lines[0]} == "llama3-lora round $round: 1 x 1 h100, "* ]]
        run make -s status MODEL=reasoning-lora ROUND="$round" WORK="$TMP/w"
        [ "$status" -eq 0 ]
        [[ $output == *"step 0/2000"* ]]
    done
    run make -s show MODEL=reasoning-lora ROUND=2
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: reasoning-lora has no round '2'; known rounds: 1 nemo2 published" ]]
    [ -z "$(ls "$TMP")" ]
}

@test "gpu-bench: its help, its dry run, and a machine without a GPU" {
    run scripts/gpu-bench.sh --help
    [ "$status" -eq 0 ]
    [[ ${lines[0]} == "gpu-bench.sh [OPTION...]: "* ]]
    run "$VENV/bin/python" tests/bench/gpu_bench.py --help
    [ "$status" -eq 0 ]
    [[ $output == *usage* && $output == *"--settings"* ]]
    ARGS="--settings 'sdpa,flash'" DRY_RUN=1 WORK="$TMP/w" PYTHON=/opt/python run scripts/gpu-bench.sh --steps 3
    [ "$status" -eq 0 ]
    [ "$output" = "/opt/python $ROOT/tests/bench/gpu_bench.py --work $TMP/w --settings sdpa\\,flash --steps 3" ]
    ARGS="--settings 'sdpa" run scripts/gpu-bench.sh
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: ARGS="*" has a quote that is not closed; close it" ]]
}

@test "dry run of the demo's chain, local" {
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP"
    [ "$status" -eq 0 ]
    golden tiny.local.txt
    [ -z "$(ls "$TMP")" ]
}

@test "a chain that makes first what it needs" {
    output=$(make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm PREPARE=1 JOBS=1 EVAL=no CPU_PARTITION=cpu \
        WORKERS=16 EXCLUSIVE=no DATA_SRC=/data 2>"$TMP/stderr")
    golden qwen7b.prepare.slurm.txt
    grep 'PREPARE=1: made first: model data$' "$TMP/stderr"
}

@test "dry runs of data and model" {
    run make -s data MODEL=qwen7b DATA_SRC=/data DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$status" -eq 0 ]
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/data.py qwen7b 1 --work $TMP/w --source /data
$TMP/venv/bin/python $ROOT/python/tools/report.py qwen7b 1 --work $TMP/w --if-possible" ]
    run make -s data MODEL=qwen7b ROUND=2 DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv" TOKENIZER=/tok DATA_FORMAT=parquet \
        DATA_FORM=messages DATA_COLUMNS=a,b WORKERS=3 REPORT=none
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/data.py qwen7b 2 --work $TMP/w --tokenizer /tok --format parquet --form messages --columns a\\,b --workers 3" ]
    run make -s report MODEL=qwen7b ROWS=0 DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/tools/report.py qwen7b 1 --work $TMP/w --rows 0" ]
    run make -s inspect MODEL=qwen7b ROW=7 DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/tools/inspect_rows.py qwen7b 1 --work $TMP/w --row=7" ]
    run make -s sft-data INPUT='a*.jsonl' NAME=mine ARGS="--system-message 'two words'" DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/tools/sft_data.py --work $TMP/w --input-files a\\*.jsonl --name mine --system-message two\\ words" ]
    run make -s model MODEL=qwen7b DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/model.py qwen7b 1 --work $TMP/w" ]
    [ -z "$(ls "$TMP")" ]
}

@test "a dry run builds no environment" {
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$status" -eq 0 ]
    [ "${#lines[@]}" -eq 5 ]
    [ -z "$(ls "$TMP")" ]
}

@test "dry run of the demo's chain, slurm" {
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=2
    [ "$status" -eq 0 ]
    golden tiny.slurm.txt
    [ -z "$(ls "$TMP")" ]
}

@test "dry run of qwen7b's chain and of a single stage" {
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=3 EXCLUSIVE=no
    [ "$status" -eq 0 ]
    golden qwen7b.slurm.txt
    run make -s eval MODEL=qwen7b ROUND=2 DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm
    [ "$status" -eq 0 ]
    golden qwen7b.eval.slurm.txt
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=2 RUN_AFTER=41,42 TIME_MIN=1:00:00 MAIL_USER=me@x.org \
        CPU_PARTITION=cpu
    [ "$status" -eq 0 ]
    golden qwen7b.options.slurm.txt
    run make -s eval MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm EVAL_TASKS=4 MODE=tir,genselect
    [ "$status" -eq 0 ]
    golden qwen7b.array.slurm.txt
    run env DRY_RUN=1 CONTAINER_RUNTIME=docker EVAL_IMAGE=mine:1 WORK="$TMP/w" VENV="$TMP/venv" bash -c \
        'touch "$0/SNAPSHOT" && cp -r scripts sbatch python recipes docker cluster.env.example "$0" && bash "$0/sbatch/eval.sbatch" qwen7b 1' "$TMP"
    [ "$status" -eq 0 ]
    [[ $output == *"docker run "*" --env SFT_IMAGE "*" mine:1 python3 "*"/python/eval.py qwen7b 1 "*" --share 1/1"* ]]
    [[ $output == *"--share 1/1 --select"*"eval.py qwen7b 1 "*"--grade"* ]]
    rm -rf "${TMP:?}"/*
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm EVAL=no
    [[ ${lines[-1]} == *"/average.sbatch qwen7b 1" ]]
    run make -s convert MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm CONVERSION_STEP=last
    [[ $output == *"/convert.sbatch qwen7b 1 30000" ]]
}

@test "dry run of a chain that ends with its only step" {
    run make -s train MODEL=reasoning-lora DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=2
    [ "$status" -eq 0 ]
    golden reasoning-lora.slurm.txt
    run make -s average MODEL=reasoning-lora DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: recipe reasoning-lora ends with step 2000, there is nothing to average; run: make convert "* ]]
    run make -s eval-data MODEL=reasoning-lora DATA_SRC=/sets DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv"
    [ "$output" = "$TMP/venv/bin/python $ROOT/python/tools/eval_data.py reasoning-lora 1 --work $TMP/w --source /sets" ]
    run env EVAL_ROWS=100 EVAL_BATCH=4 DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv" bash -c         'touch "$0/SNAPSHOT" && cp -r scripts sbatch python recipes cluster.env.example "$0" && bash "$0/sbatch/eval.sbatch" llama3-lora 1' "$TMP"
    [ "$output" = "$TMP/venv/bin/python $TMP/python/eval.py llama3-lora 1 --work $TMP/w --rows 100 --batch 4" ]
}

@test "nemo-rl trains in Slurm jobs only" {
    run make -s train MODEL=llama31-8b WORK="$TMP/w" LAUNCHER=local
    [ "$status" -eq 2 ]
    [[ $output == *"; use LAUNCHER=slurm"* ]]
    [ ! -e "$TMP/w" ]
    run make -s cache MODEL=tiny WORK="$TMP/w"
    [[ $output == *"error: recipe tiny needs no cache; "* ]]
}

@test "options of the launcher are checked" {
    for wrong in LAUNCHER=pbs JOBS=0 JOBS=many LINK_STEPS=-1 EVAL_ROWS=0 EVAL_BATCH=some SAVE_RESERVE=2m RUN_AFTER=1:2 CONVERSION_STEP=first KEEP_CHECKPOINTS=3 \
        PROFILE_STEPS=5 EXCLUSIVE=true; do
        run make -s train MODEL=tiny WORK="$TMP/w" "$wrong"
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == "error: $wrong; "* ]]
        [ ! -e "$TMP/w" ]
    done
}

@test "a site's options: in every command, and refused where they are the project's or the recipe's" {
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=1 GPUS_FLAG=none \
        SBATCH_ARGS='--exclude=node[01,02] --comment=a=b  --constraint=a100|h100 --no-requeue'
    [ "$status" -eq 0 ]
    [ "$(grep -cF "sbatch --parsable --export=ALL --exclude=node\\[01\\,02\\] --comment=a=b --constraint=a100\\|h100 --no-requeue --job-name=" <<<"$output")" -eq 9 ]
    [[ $output != *gpu* && $output != *gres* ]]
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=1 GPUS_FLAG=gres:a100
    [[ ${lines[0]} == *" --gres=gpu:a100:1 --exclusive "* && ${lines[1]} == *" --nodes=64 --gres=gpu:a100:8 --exclusive "* ]]
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=1 GPUS_FLAG=gres
    [[ ${lines[1]} == *" --nodes=64 --gres=gpu:8 --exclusive "* && $output != *gpus-per-node* ]]
    run make -s train MODEL=qwen7b DRY_RUN=1 WORK="$TMP" LAUNCHER=slurm JOBS=1 GPUS_FLAG=gpus-per-node:h100
    [[ ${lines[1]} == *" --nodes=64 --gpus-per-node=h100:8 --exclusive "* ]]
    for wrong in --output=x --dep=afterok:1 --parsable --wrap=true --array=1-2 --job-name=x --exp=NONE --wait --nodes=2 --gres=gpu:8 --exclusive --time=1:00 \
        -Q node7 "--comment='two words'" --exclude=; do
        run make -s train MODEL=tiny WORK="$TMP/w" LAUNCHER=slurm SBATCH_ARGS="--hold $wrong"
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == "error: SBATCH_ARGS: "*"; "* ]]
        run make -s train MODEL=tiny WORK="$TMP/w" LAUNCHER=slurm DRY_RUN=1 SBATCH_ARGS="--hold $wrong"
        [ "$status" -eq 2 ]
    done
    for wrong in gpu gres: gres:a:b all; do
        run make -s train MODEL=tiny WORK="$TMP/w" GPUS_FLAG="$wrong"
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == "error: GPUS_FLAG=$wrong; it is gpus-per-node, gres, either with :TYPE, or none" ]]
    done
    [ -z "$(ls "$TMP")" ]
}

@test "a shell's start-up file that talks, and a CDPATH, change nothing" {
    echo 'echo "Welcome to the cluster"' >"$TMP/start"
    BASH_ENV="$TMP/start" CDPATH=.:/usr DRY_RUN=1 WORK="$TMP" run scripts/submit.sh train tiny 1
    [ "$(grep -c Welcome <<<"$output")" -eq 1 ] # the first bash reads it before the script can say no
    output=$(grep -v Welcome <<<"$output")
    rm "$TMP/start"
    golden tiny.local.txt
    [ -z "$(ls "$TMP")" ]
}

@test "a WORK that cannot be written is one line" {
    [[ $EUID == 0 || ${CI:-} == true ]] || skip "mounting takes root"
    mkdir "$TMP/readonly"
    mount -t tmpfs -o ro tmpfs "$TMP/readonly"
    for target in data model train; do
        run make -s "$target" MODEL=tiny WORK="$TMP/readonly/w"
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == "error: WORK=$TMP/readonly/w is not writable; "* ]]
        [ "${#lines[@]}" -eq 2 ] # and make's own
    done
}

@test "training without data says what to make" {
    run make -s train MODEL=tiny WORK="$TMP/w"
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: tiny round 1 has no model, no data below $TMP/w; run: make model data MODEL=tiny ROUND=1, or add PREPARE=1" ]]
    [ ! -e "$TMP/w/runs" ]
}

@test "a misspelt model is refused before anything is set up" {
    for target in train data model eval report export; do
        VENV="$TMP/venv" run make -s "$target" MODEL=tinny WORK="$TMP/w"
        [ "$status" -eq 2 ]
        [[ $output == *"no recipe named 'tinny'; known models: "*" tiny "* ]]
        [ ! -e "$TMP/venv" ]
    done
}

@test "JOBS=auto is the default number where make plan has no estimate, and its error where it has another" {
    run make -s train MODEL=tiny LAUNCHER=slurm JOBS=auto DRY_RUN=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *"JOBS=auto: no estimate for a CPU yet, so JOBS=4"* ]]
    [ "$(grep -c 'sbatch/train.sbatch' <<<"$output")" -eq 4 ]
    run make -s train MODEL=tiny LAUNCHER=slurm JOBS=auto DRY_RUN=1 WORK="$TMP/w" SBATCH_TIMELIMIT=soon
    [ "$status" -eq 2 ]
    [[ $output == *"error: "*soon* && $output != *"no estimate"* ]]
}

@test "threads that wait for each other sleep where others compute, unless the user says otherwise" {
    mkdir -p "$TMP/venv/bin" # with what stands in for Python
    printf '#!/bin/sh\necho "policy $OMP_WAIT_POLICY"\n' >"$TMP/venv/bin/python"
    chmod +x "$TMP/venv/bin/python"
    call='. scripts/lib.sh; VENV=$TMP/venv MODEL=tiny ROUND=1 WORK=$TMP; stage results'
    busy=()
    for _ in $(seq $((2 * $(nproc)))); do
        timeout 60 sh -c 'while :; do :; done' 3>&- &
        busy+=($!)
    done
    sleep 0.3
    TMP="$TMP" run env -u OMP_WAIT_POLICY bash -c "$call"
    [ "$output" = "policy passive" ]
    TMP="$TMP" OMP_WAIT_POLICY=active run bash -c "$call"
    [ "$output" = "policy active" ]
    kill "${busy[@]}"
    half=$((($(nproc) + 1) / 2)) # and this shell
    for running in 1 "$half" $((half + 1)); do
        echo "99.00 99.00 99.00 $running/400 1234" >"$TMP/loadavg"
        run bash -c '. scripts/lib.sh; crowded "$1"' - "$TMP/loadavg"
        [ "$status" -eq "$((running <= half))" ]
    done
    run bash -c '. scripts/lib.sh; crowded /nonexistent'
    [ "$status" -eq 1 ] && [ "$output" = "" ]
}

@test "slurm without sbatch, and without a cluster, is one line" {
    command -v sbatch >/dev/null || skip "no Slurm installed"
    SLURM_CONF=/nonexistent run make -s status MODEL=tiny WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ $output == *"train "* && $output == *"step 0/"* ]]
}

@test "cluster.env: the environment takes precedence over it, and a malformed line is named" {
    cp -r scripts python recipes sbatch docker Makefile cluster.env.example "$TMP"
    cd "$TMP"
    cp cluster.env.example cluster.env
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP/w"
    [ "$(grep -c 'sbatch --parsable' <<<"$output")" -eq 11 ] # LAUNCHER=slurm and JOBS=4 are the example's
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP/w" JOBS=1
    [ "$(grep -c 'sbatch --parsable' <<<"$output")" -eq 8 ]
    echo 'SBATCH_ARGS=--exclude=node[1-2] --comment={"a":"$(b)"}' >>cluster.env
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP/w" JOBS=1
    [ "$(grep -cF ' --exclude=node\[1-2\] --comment=\{\"a\":\"\$\(b\)\"\} --job-name=' <<<"$output")" -eq 8 ]
    echo 'JOBS="2"' >>cluster.env
    run make -s train MODEL=tiny DRY_RUN=1 WORK="$TMP/w"
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "error: cluster.env: 'JOBS=\"2\"' is not KEY=VALUE; "* ]]
}

@test "doctor: a table, with a recipe or without, that needs no environment and writes nothing" {
    export HF_ENDPOINT=http://127.0.0.1:9
    run make -s doctor WORK="$TMP/w" LAUNCHER=local
    [ "$status" -eq 0 ] || { echo "$output"; false; }
    [[ ${lines[0]} == "check        verdict      found" ]]
    grep -qE '^hub +warning +http://127.0.0.1:9 cannot be reached' <<<"$output"
    run make -s doctor MODEL=tiny WORK="$TMP/w" LAUNCHER=local VENV="$TMP/venv"
    [ "$status" -eq 2 ]
    grep -qE "^\.venv +fault +$TMP/venv is not set up" <<<"$output"
    grep -qE '^ +-> run: make setup' <<<"$output"
    grep -qE '^hub +ok +not needed' <<<"$output"
    run make -s doctor MODEL=qwen7b ROUND=2 WORK="$TMP/w" LAUNCHER=local HF_HOME="$TMP/none"
    grep -qE '^room +(ok|fault) .* still to be written' <<<"$output"
    grep -qE '^hub +fault +http://127.0.0.1:9 cannot be reached' <<<"$output"
    run make -s doctor MODEL=tiny ROUND=7 WORK="$TMP/w"
    [[ $status -eq 2 && ${lines[0]} == "error: tiny has no round '7'; "* ]]
    refused "NODE=yes; give 1 to ask nodes by a job, too, or leave it out" doctor MODEL=tiny NODE=yes
    refused "JOBS is for make train; leave it out of make doctor" doctor JOBS=2
    refused "DOCTOR=maybe; it is yes, or no to queue without it" train MODEL=tiny DOCTOR=maybe
    [ -z "$(ls "$TMP")" ]
}

@test "where sbatch is, a recipe that needs GPUs or several nodes is queued, and make says so" {
    mkdir "$TMP/bin"
    printf '#!/bin/sh\n' >"$TMP/bin/sbatch"
    chmod +x "$TMP/bin/sbatch"
    PATH="$TMP/bin:$PATH" run make -s train MODEL=llama3-lora DRY_RUN=1 WORK="$TMP/w"
    [ "$status" -eq 0 ]
    [[ ${lines[0]} == *"] LAUNCHER=slurm: sbatch is here, and recipe llama3-lora has NODES=1 and DEVICE=gpu; LAUNCHER=local is without it" ]]
    [ "$(grep -c '^sbatch --parsable ' <<<"$output")" -eq 7 ] || { echo "$output"; false; }
    for said in LAUNCHER=local SLURM_JOB_ID=7 MODEL=tiny; do
        PATH="$TMP/bin:$PATH" run env MODEL=llama3-lora DRY_RUN=1 WORK="$TMP/w" "$said" bash -c 'scripts/submit.sh train "$MODEL" 1'
        [ "$status" -eq 0 ]
        [[ $output != *sbatch\ --parsable* && $output != *LAUNCHER=slurm* ]] || { echo "$said: $output"; false; }
    done
}

@test "make data without a MODEL is the round 1 that the four Qwens share" {
    for model in qwen7b qwen1.5b qwen14b qwen32b; do
        python3 python/tools/recipe.py -- "$model" 1 | grep -E '^(DATASET|SCHEMA|SPLITS|FILTER|SEED|DATA_)' >"$TMP/$model"
        diff "$TMP/qwen7b" "$TMP/$model"
    done
    [ "$(wc -l <"$TMP/qwen7b")" -ge 6 ]
    rm "$TMP"/qwen*
    run make -s data DRY_RUN=1 WORK="$TMP/w" VENV="$TMP/venv" DATA_SRC=/data
    [ "$status" -eq 0 ]
    [[ ${lines[0]} == *"] no MODEL: OpenMathReasoning, round 1, which qwen1.5b, qwen7b, qwen14b and qwen32b train on" ]]
    [ "${lines[1]}" = "$TMP/venv/bin/python $ROOT/python/data.py qwen7b 1 --work $TMP/w --source /data" ]
    [ "${#lines[@]}" -eq 2 ]
    refused "error: say which model, for round 2; only round 1 is the same for several" data ROUND=2 DRY_RUN=1
    [ -z "$(ls "$TMP")" ]
}

@test "CLUSTER names a file of clusters/; an unknown one is refused with those there are" {
    cp -r scripts python recipes sbatch docker Makefile cluster.env.example "$TMP"
    cd "$TMP"
    printf 'LAUNCHER=slurm\nJOBS=3\nWORK=%s/one\n' "$TMP" >cluster.env
    mkdir -p clusters runs/runs/tiny/round1
    run make -s train MODEL=tiny DRY_RUN=1 CLUSTER=big
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == *" there is no clusters/big.env; leave out CLUSTER, or copy cluster.env.example to it"* ]]
    printf 'LAUNCHER=slurm\nJOBS=1\nWORK=%s/runs\n' "$TMP" >clusters/big.env
    printf 'LAUNCHER=slurm\nJOBS=2\nWORK=%s/runs\n' "$TMP" >clusters/small.env
    for call in 3:one 1:runs:CLUSTER=big 2:runs:CLUSTER=small; do
        IFS=: read -r jobs work option <<<"$call"
        run make -s train MODEL=tiny DRY_RUN=1 ${option:+"$option"}
        [ "$status" -eq 0 ]
        [ "$(grep -c '/train.sbatch tiny 1$' <<<"$output")" -eq "$jobs" ]
        [[ $output == *"--output=$TMP/$work/runs/tiny/"* ]]
    done
    for wrong in bigg ../big; do
        run make -s train MODEL=tiny CLUSTER="$wrong"
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == *" there is no clusters/$wrong.env; take big, small, or copy cluster.env.example to it"* ]]
        CLUSTER="$wrong" run scripts/tool.sh plan tiny 1
        [ "$status" -eq 2 ]
        [[ ${lines[0]} == "error: there is no clusters/$wrong.env; take big, small, or "* ]]
    done
    echo CLUSTER=small >>clusters/big.env
    run make -s status MODEL=tiny CLUSTER=big
    [[ $status -eq 2 && ${lines[0]} == "error: clusters/big.env: CLUSTER names such a file; "* ]]
    sed -i '$d' clusters/big.env

    # A run that was queued for a cluster stays there.
    echo big >runs/runs/tiny/round1/CLUSTER
    run make -s train MODEL=tiny DRY_RUN=1
    [[ ${lines[0]} == *"] CLUSTER=big, for which tiny round 1 was queued" ]]
    [ "$(grep -c '/train.sbatch tiny 1$' <<<"$output")" -eq 1 ]
    run make -s status MODEL=tiny
    [[ ${lines[1]} == "tiny round 1 in $TMP/runs/runs/tiny/round1" ]]
    run scripts/submit.sh train tiny 1
    [[ $status -eq 1 && $output != *"was queued for CLUSTER="* ]]
    CLUSTER=small run scripts/submit.sh train tiny 1
    [ "$status" -eq 1 ]
    [[ ${lines[0]} == "error: this run was queued for CLUSTER=big; say so, or remove $TMP/runs/runs/tiny/round1/CLUSTER "* ]]
    mkdir -p one/runs/tiny/round1
    echo small >one/runs/tiny/round1/CLUSTER
    run make -s status MODEL=tiny
    [[ $status -eq 2 && ${lines[0]} == "error: tiny round 1 was queued for big and small; say which, e.g. CLUSTER=big" ]]
    WORK="$TMP/one" run scripts/tool.sh status tiny 1
    [[ ${lines[0]} == *"] CLUSTER=small, for which "* ]]
}

@test "every script explains itself" {
    for script in scripts/*.sh scripts/engines/*.sh sbatch/*.sbatch; do
        if [ ! -x "$script" ] && [[ $script != *.sbatch ]]; then continue; fi # sourced
        run bash "$script" --help
        [ "$status" -eq 0 ]
        [[ ${lines[0]} == "${script##*/} "* || ${lines[0]} == "${script##*/}: "* ]]
    done
    for tool in show plan doctor report inspect status logs runs cancel clean-run export sft-data eval-data generate; do
        run scripts/tool.sh "$tool" --help
        [ "$status" -eq 0 ]
        [[ ${lines[0]} == "tool.sh $tool"*": "* ]]
    done
    run scripts/tool.sh nope
    [ "$status" -eq 2 ]
    [ "${lines[0]}" = "error: there is no tool 'nope'; it is cancel clean-run compare doctor eval-data export generate inspect logs plan report runs sft-data show status" ]
    run scripts/tool.sh inspect tiny
    [ "$status" -eq 2 ]
    [ "${lines[0]}" = "error: wrong number of arguments; usage: tool.sh inspect MODEL ROUND [--full]" ]
    for script in python/*.py python/tools/[a-z]*.py python/runs/[a-z]*.py scripts/engines/ray_wait.py tests/bench/gpu_bench.py; do
        run "$VENV/bin/python" "$script" --help
        [ "$status" -eq 0 ]
        [[ $output == *usage* ]]
    done
}

@test "every command and path of README.md, CONTRIBUTING.md and docs exists" {
    docs=(README.md CONTRIBUTING.md docs/*.md)
    while read -r target; do make -n "$target" MODEL=tiny >/dev/null; done \
        < <(grep -hoE '(^    |`)make [a-z0-9-]+' "${docs[@]}" | awk '{print $2}' | sort -u)
    missing=$(grep -noE '`(scripts|sbatch|python|recipes|docker|docs|results|tests)/[A-Za-z0-9_./-]*`' "${docs[@]}" | tr -d '`' |
        while IFS=: read -r doc line path; do [ -e "$path" ] || echo "$doc:$line names $path"; done)
    [ -z "$missing" ] || { echo "$missing"; false; }
}

@test "no secret is on a command line, and no path of a machine in the tree" {
    run grep -rnE '(HF_TOKEN|WANDB_API_KEY)=?\$' scripts sbatch python docker Makefile
    [ "$status" -eq 1 ]
    run git grep -nE '(^|[^A-Za-z0-9_.$}])/(home|root)/[a-z]' -- scripts sbatch python recipes docker docs '*.md'
    [ "$status" -eq 1 ]
}
