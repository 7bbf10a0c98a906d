# One target per stage; a stage's name is also its script, its job and its folder below WORK.
#   recipe -> data -> model -> train -> convert -> average -> eval -> results
SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help
.SUFFIXES:

ROUND ?= 1
export MODEL ROUND

# What may stand on the command line. A recipe's keys may not: an experiment is a file, hence a diff, hence a row in results.
OPTIONS := MODEL ROUND WORK DATA_SRC MODEL_SRC DATA_FORMAT DATA_FORM DATA_COLUMNS TOKENIZER REPORT ROWS ROW WORKERS \
  INPUT NAME ARGS BENCH BENCH_DIR BENCH_SAVE AVERAGE_MB AVERAGE_TIMES REMOVE_AFTER_AVERAGE LAUNCHER DRY_RUN ENGINE_CONFIG \
  JOBS LINK_STEPS SAVE_RESERVE MFU GPU GPU_MEMORY BRING_UP RUN_AFTER CONVERSION_STEP KEEP_CHECKPOINTS PROFILE_STEPS \
  SETUP_COMMAND SET_UP_RESERVE WANDB_PROJECT TIME_MIN MAIL_USER MAIL_TYPE CPU_PARTITION EXCLUSIVE SBATCH_ARGS GPUS_FLAG NET_IFNAME VENV CI \
  LANG_MODEL LANG_MODEL_URL MERGE EVAL_ROWS EVAL_BATCH PYTHON NEMO2_VENV NEMO2_PYTHON NEMO_RL_VERSION \
  NEMO_RL_DIR NEMO_RL_CPU_VENV TRACE \
  BUILDER BUILDER_ARGS CONTAINER_RUNTIME CONTAINER_IMAGE CONTAINER_MOUNTS BASE_IMAGE
# Of every other target the engine is the recipe's.
OPTIONS += $(if $(filter container,$(MAKECMDGOALS)),ENGINE)
given := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
unknown := $(firstword $(filter-out $(OPTIONS) MAKE% -%,$(given)))
ifneq ($(unknown),)
  ifneq ($(shell grep -lE '^$(unknown)=' recipes/*.env),)
    $(error $(unknown) comes from recipes/; copy recipes/$(or $(MODEL),tiny).env to try another value)
  endif
  $(error there is no option $(unknown); options: $(OPTIONS))
endif

# A dry run needs no environment.
venv := $(if $(DRY_RUN),,setup)

.PHONY: help demo test test-slow check-nemo2 check-nemo-rl bench gpu-bench setup container show plan data sft-data eval-data report inspect model cache train convert average eval generate results status clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "; print "make STAGE MODEL=<recipe> [ROUND=1|2|2exact] [WORK=dir] [LAUNCHER=local|slurm] [DRY_RUN=1]\n"} \
	  /^[a-z0-9-]+:.*## / {printf "  %-11s  %s\n", $$1, $$2}' Makefile
	@printf '\nmodels: %s\n' "$$(python3 -Es python/recipe.py --models | paste -sd ' ')"

demo: setup ## the whole chain on a tiny model, on this machine, without a GPU: MODEL=tiny or tiny-reasoning
	@scripts/demo.sh "$${MODEL:-tiny}"
setup: ## build .venv from the pinned requirements; every target that needs it calls it
	@scripts/setup.sh
container: ## build the engine's image and, for a cluster, import it: ENGINE=nemo-rl|automodel|nemo2|nemo2-llama3|cpu
	@scripts/container.sh "$$ENGINE"
show: need-model ## print a recipe; ENGINE_CONFIG=1: the engine's own configuration of it
	@scripts/show.sh "$$MODEL" "$$ROUND"
plan: need-model ## tokens, FLOPs, GPU hours, jobs, memory and disk that a recipe will take
	@scripts/plan.sh "$$MODEL" "$$ROUND"

data: need-model $(venv) ## make or download the data, filter, format and shuffle it, report on it
	@scripts/data.sh "$$MODEL" "$$ROUND"
sft-data: $(venv) ## data from generations: INPUT='gen/output-rs*.jsonl' NAME=mydata ARGS='--help'
	@scripts/sft-data.sh
eval-data: need-model $(venv) ## fetch the multiple-choice sets of the recipe's EVAL_SET: GPQA, MMLU
	@scripts/eval-data.sh "$$MODEL" "$$ROUND"
report: need-model $(venv) ## token lengths, tokens and steps per epoch of the data
	@scripts/report.sh "$$MODEL" "$$ROUND"
inspect: need-model $(venv) ## rows as the trainer sees them, with a verdict on each thing that goes wrong: ROW=n
	@scripts/inspect.sh "$$MODEL" "$$ROUND"
model: need-model $(venv) ## fetch the base model at its revision, patch its RoPE, verify both
	@scripts/model.sh "$$MODEL" "$$ROUND"
cache: need-model $(venv) ## engine nemo-rl: the base model in Megatron's format, once; make train queues it too
	@scripts/submit.sh cache "$$MODEL" "$$ROUND"
train: need-model $(venv) ## train in a chain of links, then convert, average, eval, results
	@scripts/submit.sh train "$$MODEL" "$$ROUND"
convert: need-model $(venv) ## checkpoints of AVERAGE_STEPS to verified Hugging Face folders; adapters, with MERGE=1 merged too
	@scripts/submit.sh convert "$$MODEL" "$$ROUND"
average: need-model $(venv) ## the mean of those folders
	@scripts/submit.sh average "$$MODEL" "$$ROUND"
eval: need-model $(venv) ## score the base and the model that the run ends with: EVAL_ROWS=n, EVAL_BATCH=n
	@scripts/submit.sh eval "$$MODEL" "$$ROUND"
generate: need-model $(venv) ## engine nemo2, Llama 3: answers of the last checkpoint by NeMo's own llm.generate, on a GPU
	@scripts/generate.sh "$$MODEL" "$$ROUND"
results: need-model $(venv) ## results.json, loss.png and a table
	@scripts/submit.sh results "$$MODEL" "$$ROUND"
status: need-model ## what each stage is doing: state, step, time left, job
	@scripts/status.sh "$$MODEL" "$$ROUND"

test: ## lint and the tests, with a real Slurm; under 15 minutes on 2 cores
	@tests/run.sh
test-slow: ## the tests that take longer: the demo from a fresh clone
	@tests/run.sh slow
check-nemo2: setup ## build the NeMo 2.0 runs of the recipes with NeMo's own classes, on a CPU
	@scripts/check-nemo2.sh
check-nemo-rl: ## train tiny-nemo-rl with NeMo-RL itself, on a CPU: NEMO_RL_DIR=<a checkout of v0.7.0>
	@scripts/check-nemo-rl.sh
bench: setup ## time data, curation and averaging against the published scripts: BENCH=data, curation or average for one
	@tests/bench/run.sh
gpu-bench: ## tokens/s, MFU and memory of LoRA on the 8B shape, setting by setting; needs a GPU
	@scripts/gpu-bench.sh
clean: ## remove .venv; what was trained stays
	rm -rf .venv .setup.lock

.PHONY: need-model
need-model:
	@[[ -n "$$MODEL" ]] || { echo "error: say which model, e.g. make $(firstword $(MAKECMDGOALS)) MODEL=qwen7b; models: $$(python3 -Es python/recipe.py --models | paste -sd ' ')" >&2; exit 2; }
