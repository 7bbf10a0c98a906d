"""Read, check and print a recipe: the only reader of recipes/*.env in Python.

    python3 python/recipe.py qwen7b 1            # KEY=VALUE lines, sorted
    python3 python/recipe.py qwen7b 1 --files    # the files that hold them, for bash
    python3 python/recipe.py --models            # the known models
    python3 python/recipe.py --keys              # every key that a recipe may have

A recipe is three files with disjoint keys: common.env, the round's schedule (round<N>.env) and <model>.env. For the
first two a model may have its own (<model>.round<N>.env), or share one with its family (reasoning.common.env,
reasoning.round1.env), which is its name up to the first hyphen.
"""

import argparse
import difflib
import re
from pathlib import Path
from typing import Any

from lib import ROOT, Failure, read_done, read_json, run, usage

RECIPES = ROOT / "recipes"
# What bash's source and we read alike: no blanks, quotes, '$' or '#', nothing to expand.
LINE = re.compile(r"([A-Z][A-Z0-9_]*)=([A-Za-z0-9_./:,@+-]*)")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Recipe = dict[str, str]


def positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def count(text: str) -> bool:
    return text.isascii() and text.isdigit()


def number(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def steps(text: str) -> bool:
    return all(positive(s) for s in text.split(","))


def text(value: str) -> bool:
    return bool(value)


def one_of(*choices: str):
    def check(value: str) -> bool:
        return value in choices

    check.__name__ = "one of " + ", ".join(choices)
    return check


SPLITS = ("cot", "tir", "genselect")


def names(value: str) -> bool:
    return all(NAME.fullmatch(n) for n in value.split(","))


names.__name__ = "names with commas between"


def share(value: str) -> bool:
    return number(value) and float(value) <= 1


def splits(value: str) -> bool:
    return all(s in SPLITS for s in value.split(",")) and len(set(value.split(","))) == len(value.split(","))


# The linear layers of a decoder block, by their names in Hugging Face's Llama and Qwen2.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def targets(value: str) -> bool:
    return set(value.split(",")) <= set(LINEAR) and len(set(value.split(","))) == len(value.split(","))


targets.__name__ = "some of " + ",".join(LINEAR)
share.__name__ = "a number from 0 to 1"


# Every key there is. True: each recipe must have it.
KEYS = {
    "ROUNDS": (text, True),
    "ENGINE": (one_of("automodel", "nemo-rl", "nemo2"), True),
    "BACKEND": (one_of("megatron", "fsdp"), False),
    "DEVICE": (one_of("cpu", "gpu"), True),
    "DTYPE": (one_of("float32", "bfloat16"), True),
    "BASE_MODEL": (text, True),
    "BASE_SOURCE": (one_of("hub", "random"), True),
    "BASE_REVISION": (text, True),
    "RANDOM_LAYERS": (positive, False),
    "RANDOM_HIDDEN": (positive, False),
    "RANDOM_HEADS": (positive, False),
    "RANDOM_VOCAB": (positive, False),
    "ROPE_THETA": (number, False),
    "MAX_POSITIONS": (positive, False),
    "CHAT": (one_of("chatml", "llama3", "none"), True),
    "LR": (number, True),
    "MIN_LR": (number, True),
    "LR_SCHEDULE": (one_of("cosine", "constant"), True),
    "WARMUP": (count, True),
    "WARMUP_INIT": (number, True),
    "WEIGHT_DECAY": (number, True),
    "ADAM_BETA1": (number, True),
    "ADAM_BETA2": (number, True),
    "ADAM_EPS": (number, True),
    "CLIP_GRAD": (number, True),
    "SEED": (count, True),
    "TP": (positive, True),
    "CP": (positive, True),
    "PP": (positive, True),
    "EP": (positive, True),
    "ETP": (positive, False),
    "ACTIVATION_CHECKPOINTING": (one_of("true", "false"), False),
    "NODES": (positive, True),
    "GPUS_PER_NODE": (positive, True),
    "DATASET": (text, True),
    "DATASET_SOURCE": (one_of("hub", "generate", "prepared"), True),
    "DATASET_REVISION": (text, True),
    "DATA_ROUND": (text, False),
    "SCHEMA": (one_of("nemotron", "dolly", "squad"), False),
    "VARIANT": (one_of("corrected", "published"), False),
    "SPLITS": (splits, False),
    "FILTER_SPLITS": (lambda v: v == "none" or splits(v), False),
    "FILTER_SOURCES": (text, False),
    "FILTER_MAX_PASS_RATE": (number, False),
    "FILTER_MIN_TOKENS": (positive, False),
    "FILTER_TOKENIZER": (text, False),
    "FILTER_TOKENIZER_REVISION": (text, False),
    "CURATE_FILES": (names, False),
    "CURATE_USED_IN": (text, False),
    "CURATE_MAX_TOKENS": (positive, False),
    "CURATE_MAX_COMPLETION": (positive, False),
    "CURATE_ROWS": (count, False),
    "CURATE_TAKE": (one_of("random", "head"), False),
    "CURATE_CHUNK": (positive, False),
    "CURATE_VAL_ROWS": (count, False),
    "CURATE_DEDUPLICATE": (one_of("true", "false"), False),
    "CURATE_DECONTAMINATE": (names, False),
    "GENERATE_PROBLEMS": (positive, False),
    "SHUFFLE": (one_of("true", "false"), False),
    "LORA_RANK": (positive, False),
    "LORA_ALPHA": (positive, False),
    "LORA_DROPOUT": (share, False),
    "LORA_TARGETS": (targets, False),
    "START_FROM": (one_of("base", "round1"), True),
    "SEQ_LEN": (positive, True),
    "PACKING": (one_of("true", "false"), True),
    "GLOBAL_BATCH": (positive, True),
    "MICRO_BATCH": (positive, True),
    "STEPS": (positive, True),
    "MAX_EPOCHS": (positive, False),
    "SAVE_EVERY": (positive, True),
    "AVERAGE_STEPS": (steps, True),
    "VAL_DATASET": (text, False),
    "VAL_EVERY": (positive, False),
    "VAL_BATCHES": (positive, False),
    "EVAL_SET": (names, False),
    "EVAL_MAX_TOKENS": (positive, False),
    "EVAL_TEMPERATURE": (number, False),
    "EVAL_TOP_P": (share, False),
}
KEYS["FILTER_SPLITS"][0].__name__ = "none or splits"

# The keys that decide what a stage makes. What is not named here can change without making it again.
STAGE_KEYS = {
    "data": {k for k in KEYS if k.startswith(("DATASET", "FILTER_", "CURATE_"))}
    | {"SCHEMA", "SPLITS", "GENERATE_PROBLEMS", "SEED"},
    "model": {k for k in KEYS if k.startswith(("BASE_", "RANDOM_"))} | {"ROPE_THETA", "MAX_POSITIONS", "SEED"},
}
STAGE_KEYS["train"] = {k for k in KEYS if not k.startswith("EVAL_")} - {"ROUNDS", "AVERAGE_STEPS", "DATA_ROUND"}
STAGE_KEYS["convert"] = STAGE_KEYS["train"]
STAGE_KEYS["average"] = STAGE_KEYS["train"] | {"AVERAGE_STEPS"}
STAGE_KEYS["eval"] = STAGE_KEYS["average"] | {k for k in KEYS if k.startswith("EVAL_")}
STAGE_KEYS["results"] = STAGE_KEYS["eval"]


def stage_keys(recipe: Recipe, stage: str) -> Recipe:
    """The part of the recipe that `stage` depends on."""
    keys = STAGE_KEYS[stage]
    if stage == "data" and "SCHEMA" in recipe:  # its rows are rendered for the model
        keys = keys | {"CHAT", "VARIANT"}
    return {k: v for k, v in recipe.items() if k in keys}


def models() -> list[str]:
    names = (p.name.removesuffix(".env") for p in RECIPES.glob("*.env"))
    return sorted(n for n in names if not re.search(r"(^|\.)(round|common)", n))


def read_file(path: Path) -> Recipe:
    """KEY=VALUE lines of one file, strictly."""
    found: Recipe = {}
    where = path.relative_to(ROOT)
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            usage(
                f"{where}:{n}: {line[:60]!r} is not KEY=VALUE; write it without blanks, quotes, '$' or trailing comment"
            )
        if match[1] in found:
            usage(f"{where}:{n}: {match[1]} is set twice; keep one")
        if match[1] not in KEYS:
            near = difflib.get_close_matches(match[1], KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else "python/recipe.py lists the keys"
            usage(f"{where}:{n}: unknown key {match[1]}; {hint}")
        found[match[1]] = match[2]
    return found


def files(model: str, round_: str) -> list[Path]:
    """The three files of a recipe; Failure (status 2) for an unknown model or round."""
    known = models()
    if not NAME.fullmatch(model) or model not in known:
        usage(f"no recipe named {model!r}; known models: {' '.join(known)}")
    path = RECIPES / f"{model}.env"
    rounds = read_file(path).get("ROUNDS", "").split(",")
    shared = RECIPES / f"round{round_}.env"
    if round_ not in rounds:
        usage(f"{model} has no round {round_!r}; known rounds: {' '.join(rounds)}")
    layer = layer_of(f"round{round_}.env", model)
    if not layer.is_file():
        usage(f"{path.relative_to(ROOT)}: ROUNDS names {round_}, but there is no {shared.relative_to(ROOT)}; write it")
    return [layer_of("common.env", model), layer, path]


def layer_of(name: str, model: str) -> Path:
    """The file of a layer: the model's own, else its family's, else the one of all."""
    family = model.partition("-")[0]
    own = [path for owner in (model, family) if (path := RECIPES / f"{owner}.{name}").is_file()]
    return [*own, RECIPES / name][0]


def load(model: str, round_: str) -> Recipe:
    """The checked recipe of a model and round, as strings. Raises Failure (status 2)."""
    recipe: Recipe = {}
    for path in files(model, round_):
        for key, value in read_file(path).items():
            if key in recipe:
                usage(f"{path.relative_to(ROOT)}: {key} is already set in another layer; every key has one home")
            recipe[key] = value
    check(model, recipe)
    return recipe


def sequence_unit(r: Recipe) -> int:
    """Tokens of which a row's length is made a multiple with engine nemo-rl.

    A sequence is split in 2*CP chunks, and by sequence parallelism over TP (NeMo-RL v0.7.0
    nemo_rl/models/megatron/data.py:1126-1131).
    """
    return 2 * int(r["CP"]) * int(r["TP"])


def check(model: str, r: Recipe) -> None:
    """Refuse what cannot train, or would train something else than it says. Raises Failure (status 2)."""

    def demand(holds: bool, why: str) -> None:
        if not holds:
            usage(f"recipe {model}: {why}")

    for key, (valid, required) in KEYS.items():
        if key not in r:
            demand(not required, f"{key} is missing; add it")
        else:
            demand(valid(r[key]), f"{key}={r[key]} is not valid; it must be {valid.__name__}")

    rl = r["ENGINE"] == "nemo-rl"
    for key in ("BACKEND", "MAX_EPOCHS"):
        demand((key in r) == rl, f"{key} goes with ENGINE=nemo-rl; set both or none")
    demand(not rl or "ACTIVATION_CHECKPOINTING" in r, "ENGINE=nemo-rl needs ACTIVATION_CHECKPOINTING; add it")
    demand(r["ENGINE"] != "nemo2" or "VARIANT" in r, "ENGINE=nemo2 needs VARIANT; add it")
    lora = [k for k in KEYS if k.startswith("LORA_")]
    for key in lora:
        demand((key in r) == ("LORA_RANK" in r), f"{key} goes with the other LORA_ keys; set all or none")
    demand("LORA_RANK" not in r or not rl, "LoRA is not driven here with ENGINE=nemo-rl; remove the LORA_ keys")
    demand(r.get("SHUFFLE", "true") == "true" or not rl, "SHUFFLE=false is not driven with ENGINE=nemo-rl; remove it")
    nodes, per_node = int(r["NODES"]), int(r["GPUS_PER_NODE"])
    tp, cp, pp, ep, etp = (int(r.get(k, "1")) for k in ("TP", "CP", "PP", "EP", "ETP"))
    processes = nodes * per_node
    demand(processes % (tp * cp * pp) == 0, f"{processes} GPUs do not divide by TP*CP*PP={tp * cp * pp}; change NODES")
    # The experts' parallelism is laid over the same GPUs, independently of TP and CP.
    demand(("ETP" in r) == (ep > 1), "ETP goes with EP > 1; set both or none")
    demand(
        processes % (etp * ep * pp) == 0,
        f"{processes} GPUs do not divide by ETP*EP*PP={etp * ep * pp}; change NODES or EP",
    )
    dp = processes // (tp * cp * pp)
    batch = int(r["GLOBAL_BATCH"])
    # NeMo-RL deals a global batch out to the replicas (v0.7.0 nemo_rl/distributed/batched_data_dict.py:399).
    demand(
        batch % (dp * int(r["MICRO_BATCH"])) == 0,
        f"GLOBAL_BATCH={batch} does not divide by {dp} replicas of MICRO_BATCH={r['MICRO_BATCH']}; change one",
    )
    unit = sequence_unit(r)
    demand(
        not rl or int(r["SEQ_LEN"]) % unit == 0, f"SEQ_LEN={r['SEQ_LEN']} does not divide by 2*CP*TP={unit}; change it"
    )
    backend = r.get("BACKEND")
    demand(
        backend != "megatron" or cp == 1 or r["PACKING"] == "true",
        "CP > 1 needs PACKING=true on Megatron; set it",  # NeMo-RL v0.7.0 nemo_rl/models/megatron/setup.py:629-636
    )
    demand(
        backend != "fsdp" or cp == 1 or r["PACKING"] == "false",
        "BACKEND=fsdp cannot pack with CP > 1; set PACKING=false or BACKEND=megatron",  # automodel/setup.py:384
    )
    demand(
        backend != "fsdp" or (pp, ep) == (1, 1),
        "BACKEND=fsdp is driven here without PP and EP; set PP=1 EP=1 or BACKEND=megatron",
    )
    demand(  # nemo-automodel 0.7.0 _transformers/capabilities.py:501
        r["ENGINE"] != "automodel" or cp == 1,
        f"CP={cp}: nemo-automodel splits sequences with Transformer Engine, which is not driven here and needs a GPU; "
        "set CP=1",
    )
    demand(
        rl or (cp, pp, ep) == (1, 1, 1),
        f"engine {r['ENGINE']} is driven here without CP, PP and EP; set CP=1 PP=1 EP=1",
    )
    demand(
        r["PACKING"] == "false" or rl or (r["ENGINE"] == "automodel" and r["MICRO_BATCH"] == "1" and tp == 1),
        f"PACKING=true with ENGINE={r['ENGINE']} needs automodel with MICRO_BATCH=1 and TP=1; change one",
    )
    for key in ("VAL_DATASET", "VAL_EVERY", "VAL_BATCHES"):
        demand((key in r) == ("VAL_DATASET" in r), f"{key} goes with VAL_DATASET; set both or none")
        demand(rl or key not in r, f"{key} needs ENGINE=nemo-rl, the one that validates here; remove it")
    # What is rendered here without the model's own template is ChatML.
    schema = r.get("SCHEMA", "openmath")
    demand(
        r["CHAT"] == "chatml" or schema != "openmath" or (r["DATASET_SOURCE"] == "prepared" and "EVAL_SET" not in r),
        f"CHAT={r['CHAT']} needs rows rendered with that template, and none of our prompts; "
        "set DATASET_SOURCE=prepared, without EVAL_SET",
    )
    for key in ("SPLITS", "FILTER_SPLITS"):
        demand((key in r) == (schema == "openmath"), f"{key} goes with OpenMathReasoning's schema; remove it or SCHEMA")
    demand(("VARIANT" in r) == ("SCHEMA" in r), "VARIANT goes with SCHEMA; set both or none")
    demand(
        r.get("VARIANT") != "published" or r["ENGINE"] == "nemo2",
        f"VARIANT=published is what NeMo 2.0 makes of it, not {r['ENGINE']}; set ENGINE=nemo2",
    )
    for key in (k for k in KEYS if k.startswith("CURATE_")):
        demand((key in r) == (schema == "nemotron"), f"{key} goes with SCHEMA=nemotron; set all of them or none")
    if schema == "nemotron":
        demand(r["CHAT"] == "llama3", "SCHEMA=nemotron is rendered with the model's template; set CHAT=llama3")
        longest, fits = int(r["CURATE_MAX_TOKENS"]), int(r["SEQ_LEN"])
        demand(
            longest <= fits or r["VARIANT"] == "published",
            f"CURATE_MAX_TOKENS={longest} lets in rows longer than SEQ_LEN={fits}, which would be cut; lower it",
        )
    if schema in ("dolly", "squad"):
        demand(r["CHAT"] == "none", f"SCHEMA={schema} has no chat template; set CHAT=none")
    total, every = int(r["STEPS"]), int(r["SAVE_EVERY"])
    average = [int(s) for s in r["AVERAGE_STEPS"].split(",")]
    demand(average == sorted(set(average)), f"AVERAGE_STEPS={r['AVERAGE_STEPS']} must ascend without repeats; sort it")
    lost = [s for s in average if s > total or (s % every and s != total)]
    demand(
        not lost,
        f"step {(lost or [0])[0]} of AVERAGE_STEPS is never saved with SAVE_EVERY={every}, STEPS={total}; change one",
    )
    demand("LORA_RANK" not in r or len(average) == 1, f"adapters are not averaged; set AVERAGE_STEPS={max(average)}")
    demand(float(r["MIN_LR"]) <= float(r["LR"]), f"MIN_LR={r['MIN_LR']} is above LR={r['LR']}; swap them")
    demand(float(r["WARMUP_INIT"]) <= float(r["LR"]), f"WARMUP_INIT={r['WARMUP_INIT']} is above LR={r['LR']}; lower it")
    demand(int(r["WARMUP"]) < total, f"WARMUP={r['WARMUP']} is not shorter than STEPS={total}; shorten it")
    demand(("ROPE_THETA" in r) == ("MAX_POSITIONS" in r), "ROPE_THETA and MAX_POSITIONS go together; set both or none")
    math_base = "Math" in r["BASE_MODEL"] or r["BASE_SOURCE"] == "random"
    demand(
        "ROPE_THETA" not in r or math_base,
        f"{r['BASE_MODEL']} is not a Math base, whose RoPE upstream leaves alone; remove ROPE_THETA and MAX_POSITIONS",
    )
    if "MAX_POSITIONS" in r:
        demand(
            int(r["SEQ_LEN"]) <= int(r["MAX_POSITIONS"]),
            f"SEQ_LEN={r['SEQ_LEN']} exceeds MAX_POSITIONS={r['MAX_POSITIONS']}; shorten it",
        )
    random_keys = ("RANDOM_LAYERS", "RANDOM_HIDDEN", "RANDOM_HEADS", "RANDOM_VOCAB")
    for key in random_keys:
        demand((key in r) == (r["BASE_SOURCE"] == "random"), f"{key} goes with BASE_SOURCE=random; set both or none")
    demand(
        ("GENERATE_PROBLEMS" in r) == (r["DATASET_SOURCE"] == "generate"),
        "GENERATE_PROBLEMS goes with DATASET_SOURCE=generate; set both or none",
    )
    for key in (k for k in KEYS if k.startswith("FILTER_") and k != "FILTER_SPLITS"):
        filtered = r.get("FILTER_SPLITS", "none") != "none"
        demand((key in r) == filtered, f"{key} goes with FILTER_SPLITS; set both or none")
    if r["BASE_SOURCE"] == "random":
        demand(
            int(r["RANDOM_HIDDEN"]) % (2 * int(r["RANDOM_HEADS"])) == 0,
            "RANDOM_HIDDEN must divide by twice RANDOM_HEADS (RoPE needs an even head size); change one",
        )
    demand(("EVAL_SET" in r) == ("EVAL_MAX_TOKENS" in r), "EVAL_SET and EVAL_MAX_TOKENS go together; set both or none")
    for key in ("EVAL_TEMPERATURE", "EVAL_TOP_P"):
        demand((key in r) == ("EVAL_TEMPERATURE" in r), f"{key} goes with EVAL_TEMPERATURE; set both or none")
        demand(key not in r or "EVAL_SET" in r, f"{key} goes with EVAL_SET; set both or none")


# --- where things lie --------------------------------------------------------------------------------------------

REMOVED = "REMOVED"  # beside the average's DONE: step_<S> -> DONE of a converted step that was removed after averaging


# The data file that training reads, by SCHEMA; the tutorials' own form lies beside it.
ROWS = {"openmath": "all.jsonl", "nemotron": "training.jsonl", "dolly": "rendered.jsonl", "squad": "rendered.jsonl"}


class Paths:
    """The folders of one run below WORK: the output mirrors the stages, and no round shares one with another."""

    def __init__(self, work: str | Path, model: str, round_: str, recipe: Recipe):
        self.work = Path(work).resolve()
        self.base = self.work / "models" / recipe["BASE_MODEL"].split("/")[-1]
        self.dataset = self.work / "data" / recipe["DATASET"].split("/")[-1].lower()
        self.data = self.dataset / f"round{recipe.get('DATA_ROUND', round_)}"
        # The file of it that the trainer reads: one {"input", "output"} a line; as published, not rendered.
        published = recipe.get("VARIANT") == "published"
        self.rows = self.data / ("training.jsonl" if published else ROWS[recipe.get("SCHEMA", "openmath")])
        self.run = self.work / "runs" / model / f"round{round_}"
        self.report, self.train, self.convert, self.average, self.eval, self.results = (
            self.run / stage for stage in ("report", "train", "convert", "average", "eval", "results")
        )
        # make sft-data writes there; the set that training validates on, where the recipe names one.
        self.validation = self.work / "data" / recipe.get("VAL_DATASET", "none") / "round1"
        # What training starts from: the patched base, or the model that round 1 ended with.
        self.start = self.base if recipe["START_FROM"] == "base" else self.run.parent / "round1" / "average"
        # The model that the run ends with: the average, or the one step that there is of it.
        steps = recipe["AVERAGE_STEPS"].split(",")
        single = "SCHEMA" in recipe and len(steps) == 1
        self.final = self.convert / f"step_{steps[0]}" if single else self.average


def read_data(paths: Paths, again: str) -> dict[str, Any]:
    """The manifest of the prepared data. Raises Failure when there is none, or not in the form that engines read.

    again: MODEL=... ROUND=... of the make commands that errors name.
    """
    done = read_done(paths.data, f"run: make data {again}")
    made = done["recipe"]
    if paths.rows.name not in done["outputs"] or made.get("DATA_FORM", "text") != "text":
        form = f"DATA_FORMAT={made.get('DATA_FORMAT')} DATA_FORM={made.get('DATA_FORM')}"
        raise Failure(f"{paths.data} holds {form}, not input/output JSONL; run make data {again} in another WORK")
    return done


def removed(paths: Paths) -> dict[str, dict[str, Any]]:
    """The manifests of the steps that were removed when they had been averaged, by folder name."""
    record = paths.average / REMOVED
    return read_json(record) if record.is_file() and (paths.average / "DONE").is_file() else {}


def converted(paths: Paths, step: int | str, remedy: str) -> dict[str, Any]:
    """The manifest of a converted step, be it there or averaged and removed. Raises Failure with `remedy`."""
    folder = paths.convert / f"step_{step}"
    kept = None if folder.is_dir() else removed(paths).get(folder.name)
    return kept or read_done(folder, remedy)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every stage takes: MODEL ROUND --work DIR."""
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a recipe: the name of a file in recipes/")
    arguments.add_argument("round", help="a round of that recipe")
    arguments.add_argument("--work", default="work", help="where everything is written (default: work)")
    return arguments


def open_run(arguments: argparse.ArgumentParser) -> tuple[argparse.Namespace, Recipe, Paths]:
    """Parse the command line; load the recipe that it names and the folders of its run. Raises Failure."""
    args = arguments.parse_args()
    recipe = load(args.model, args.round)
    return args, recipe, Paths(args.work, args.model, args.round, recipe)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", nargs="?")
    arguments.add_argument("round", nargs="?")
    arguments.add_argument("--files", action="store_true", help="print the recipe's files")
    arguments.add_argument("--models", action="store_true", help="print the known models")
    arguments.add_argument("--keys", action="store_true", help="print every key that a recipe may have")
    args = arguments.parse_args()
    if args.models:
        print("\n".join(models()))
    elif args.keys:
        print("\n".join(KEYS))
    elif args.model is None or args.round is None:
        usage("say which MODEL and ROUND; known models: " + " ".join(models()))
    else:
        recipe = load(args.model, args.round)
        if args.files:
            print("\n".join(str(p) for p in files(args.model, args.round)))
        else:
            print("\n".join(f"{k}={v}" for k, v in sorted(recipe.items())))


if __name__ == "__main__":
    run(main)
