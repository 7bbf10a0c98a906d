# One target per stage; a stage's name is also its script, its job and its folder below WORK.
#   recipe -> data -> model -> train -> convert -> average -> eval -> results
SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help
.SUFFIXES:

ROUND ?= 1
export MODEL ROUND

# What may stand on the command line: the options of cluster.env.example and scripts/options.txt, each for the targets that
# heed it. A recipe's keys may not: an experiment is a file, hence a diff, hence a row in results.
export MAKE_GIVEN := $(filter-out MAKE% -%,$(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v))))
ifneq ($(MAKE_GIVEN),)
  refusal := $(shell MODEL='$(MODEL)' CLUSTER='$(CLUSTER)' scripts/given.sh '$(MAKECMDGOALS)' $(MAKE_GIVEN))
  ifneq ($(refusal),)
    $(error $(refusal))
  endif
endif

# A dry run needs no environment.
venv := $(if $(DRY_RUN),,setup)

# What needs a recipe; each of the tools is a part of scripts/tool.sh.
chain := cache train convert average eval results
tools := show plan report inspect status logs cancel clean-run export eval-data generate
.PHONY: help demo test lint test-slow check-nemo2 check-nemo-rl bench gpu-bench setup container clean compare doctor runs sft-data data model $(chain) $(tools)

help: ## this list
	@awk 'BEGIN {FS = ":.*## "; print "make STAGE MODEL=<recipe> [ROUND=1|2|2exact] [WORK=dir] [LAUNCHER=local|slurm] [DRY_RUN=1]"} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / && $$1 != "help" {printf "  %-13s  %s\n", $$1, $$2}' Makefile
	@printf '\nmodels: %s\n' "$$(python3 -Es python/tools/recipe.py --models | paste -sd ' ')"

##@ The chain
data: known-model $(venv) ## make or download the data, filter, format and shuffle it, report on it; without MODEL=: OpenMathReasoning
	@scripts/data.sh "$$MODEL" "$$ROUND"
sft-data: $(venv) ## data from generations: INPUT='gen/output-rs*.jsonl' NAME=mydata ARGS='--help'
	@scripts/tool.sh sft-data
eval-data: need-model $(venv) ## fetch GPQA, MMLU and benchmarks, as EVAL_SET names them or: BENCH=name,file.jsonl, BENCH_SRC=dir
model: need-model $(venv) ## fetch the base model at its revision, patch its RoPE, verify both
	@scripts/model.sh "$$MODEL" "$$ROUND"
cache: need-model $(venv) ## engine nemo-rl: the base model in Megatron's format, once; make train queues it too
train: need-model $(venv) ## train in a chain of links, then convert, average, eval, results
convert: need-model $(venv) ## checkpoints of AVERAGE_STEPS to verified Hugging Face folders; adapters, with MERGE=1 merged too
average: need-model $(venv) ## the mean of those folders
eval: need-model $(venv) ## score the base and the model that the run ends with: BENCH=aime24:64 MODE=cot,tir,genselect
generate: need-model $(venv) ## engine nemo2, Llama 3: answers of the last checkpoint by NeMo's own llm.generate, on a GPU
results: need-model $(venv) ## a page of scores, figures and every answer; results.json, loss.png and a table
$(chain):
	@scripts/submit.sh $@ "$$MODEL" "$$ROUND"

##@ Look
show: need-model ## print a recipe; ENGINE_CONFIG=1: the engine's own configuration of it
plan: need-model ## tokens, FLOPs, GPU hours, jobs, memory and disk; NODES=n GPUS_PER_NODE=n: of the recipe on other GPUs
doctor: ## check this site, before anything is queued; with MODEL= for its needs; NODE=1: also by a job on two nodes
	@scripts/tool.sh doctor "$$MODEL" "$$ROUND"
report: need-model $(venv) ## token lengths, tokens and steps per epoch of the data
inspect: need-model $(venv) ## rows as the trainer sees them, with a verdict on each thing that goes wrong: ROW=n
##@ Runs
status: need-model ## what each stage is doing, how training goes, why jobs wait: WATCH=seconds
logs: need-model ## the lines that matter of the last link: errors, last steps, what is saved, how it ended
compare: ## two runs side by side, as a table and a page: A=<results or run> B=<another>
	@scripts/tool.sh compare
cancel: need-model ## cancel the jobs of a chain; a link that is training saves first: CANCEL_WAIT=seconds
clean-run: need-model ## list what a run no longer needs; YES=1: remove it; ALL=1: the whole run
export: need-model $(venv) ## the model that a run ends with, and a model card: TO=dir or TO=hub:owner/name
runs: ## a table of all runs below WORK, and WORK/index.html with plots
	@scripts/tool.sh runs
$(tools):
	@scripts/tool.sh $@ "$$MODEL" "$$ROUND"

##@ Set up
setup: ## build .venv from the pinned requirements; every target that needs it calls it
	@scripts/setup.sh
container: ## build the engine's image and, for a cluster, import it: ENGINE=nemo-rl|automodel|nemo2|nemo2-llama3|vllm|cpu
	@scripts/container.sh "$$ENGINE"
demo: setup ## the whole chain on a tiny model, on this machine, without a GPU: MODEL=tiny or tiny-reasoning
	@scripts/demo.sh "$${MODEL:-tiny}"
clean: ## remove .venv; what was trained stays
	rm -rf .venv .setup.lock

##@ Develop
test: ## lint, and the tests that take seconds: one chain of the real engine, a real Slurm; 8 to 10 minutes on 2 cores
	@tests/run.sh
lint: ## the linters alone; pre-commit install runs them before each commit
	@scripts/setup.sh test && tests/lint.sh
test-slow: ## the tests that take longer: interrupted chains, Ray, images, vLLM, the demo from a fresh clone; about 50 minutes
	@tests/run.sh slow
check-nemo2: setup ## build the NeMo 2.0 runs of the recipes with NeMo's own classes, on a CPU
	@scripts/check-nemo2.sh
check-nemo-rl: ## train tiny-nemo-rl with NeMo-RL itself, on a CPU: NEMO_RL_DIR=<a checkout of v0.7.0>
	@scripts/check-nemo-rl.sh
bench: setup ## time data, curation, averaging and grading against upstream's way: BENCH=data, curation, average or eval
	@tests/bench/run.sh
gpu-bench: ## tokens/s, MFU and memory of LoRA on the 8B shape, setting by setting; needs a GPU
	@scripts/gpu-bench.sh

.PHONY: need-model known-model
known-model: # before setup, which takes minutes; the recipe is read in full after it
	@[[ -z "$$MODEL" ]] || compgen -G "recipes/*/$$MODEL.env" >/dev/null || python3 -Es python/tools/recipe.py -- "$$MODEL" "$$ROUND" >/dev/null
need-model: known-model
	@[[ -n "$$MODEL" ]] || { echo "error: say which model, e.g. make $(firstword $(MAKECMDGOALS)) MODEL=qwen7b; models: $$(python3 -Es python/tools/recipe.py --models | paste -sd ' ')" >&2; exit 2; }
