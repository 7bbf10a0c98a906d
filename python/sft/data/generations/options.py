"""The options of sft-data: upstream's keys with dashes, checked before anything is read or written.

Sources: NeMo-Skills 8b18f39 nemo_skills/training/data_preparation_utils/ (math_sft.yaml, preprocessing.py, filters.py)
and nemo_skills/prompt/.
"""

import argparse
import glob
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sft.data.openmath import PROMPTS
from sft.lib.errors import Failure, usage
from sft.lib.files import read_jsonl
from sft.recipe import keys
from sft.recipe.keys import NAME, count

Row = dict[str, Any]
Options = argparse.Namespace

# preprocessing.py:62-69 and math_sft.yaml:85-93, and finish_reason, whose loss upstream makes its own check of it void.
KEYS_TO_KEEP = (
    *("total_votes", "majority_votes", "expected_answer", "predicted_answer", "answer_rm_score"),
    *("solutions", "num_solutions", "max_idx", "symbolic_correct", "judgement", "reasoning_content", "finish_reason"),
)
COUNTER = "total_code_executions"
BUILT_IN_PROMPTS = {"generic/math": PROMPTS["cot"], "openmath/tir": PROMPTS["tir"]}
# What begins a piece of code: code_begin of nemo_skills/prompt/code_tags/*.yaml.
CODE_TAGS = {
    "gpt-oss": "<|start|>assistant<|channel|>analysis to=python code<|message|>",
    "llama3": "<|python_tag|>",
    "nemotron": "<llm-code>\n",
    "openmath": "<tool_call>",
    "qwen": "```python\n",
    "qwen-lean": "```lean4\n",
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        usage(f"{message}; --help lists the options")


def at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not count(text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def portion(text: str) -> float:
    try:
        return keys.read_share(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1") from None


def json_object(text: str) -> Row:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options: upstream's keys with dashes."""
    style = argparse.RawDescriptionHelpFormatter
    top = Parser(usage="%(prog)s OPTION...", description=doc, formatter_class=style, allow_abbrev=False)

    def group(title: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        section = top.add_argument_group(title)

        def switch(name: str, help_: str, default: bool = False) -> None:
            section.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=help_)

        return section.add_argument, switch

    option, switch = group("where from, where to")
    option("--input-files", metavar="GLOBS", help="graded generations (JSONL): globs, commas or else blanks between")
    option("--preprocessed-dataset-files", metavar="GLOBS", help="rows to add without looking at their grades")
    option("--name", help="of the data set; the result is WORK/data/NAME/round1")
    option("--work", default="work", help="where everything is written (default: work)")
    option("--workers", type=at_least(1), help="processes (default: one for each core)")
    option("--input-key", default="problem", help="field with the problem (default: problem)")
    option("--output-key", default="generation", help="field with the solution (default: generation)")

    option, switch = group("which rows")
    option("--skip-first", type=at_least(0), default=0, metavar="N", help="lines to skip at the start of each file")
    switch("--add-correct", "take solutions graded correct (the default)", True)
    switch("--add-incorrect", "take solutions graded incorrect")
    switch("--add-unlabeled", "take every solution, graded or not")
    switch("--use-judgement", "grade by the field judgement, not symbolic_correct")
    switch("--deduplicate", "take a solution of a problem once, the first (the default)", True)

    option, switch = group("filters, in the order in which they run")
    switch("--drop-incomplete", "drop what has a finish_reason other than stop (not upstream)")
    switch("--drop-multi-boxed", "drop solutions with more than one \\boxed{}")
    switch("--remove-contaminated", "drop problems that --contamination-file calls contaminated")
    option("--contamination-file", metavar="FILE", help="JSONL with problem and contaminated")
    switch("--remove-code-errors", "drop solutions with a Python error or cut output")
    switch("--remove-matplotlib", "drop solutions that import matplotlib")
    switch("--remove-no-code", "drop solutions without both <tool_call> and </tool_call>")
    switch("--remove-no-think-tags", "drop solutions without </think>")
    switch("--remove-verification-code", "drop solutions that verify their result with Python")
    switch("--majority-filter", "drop answers with too few votes; rows without votes stay")
    option("--min-majority-votes", type=at_least(0), metavar="N", help="votes that the answer needs (default: 0)")
    option("--min-majority-percentage", type=portion, metavar="X", help="share of the votes that it needs, 0 to 1")
    switch("--trim-prefix", "remove 'My solution:' and its newline from the start")
    switch("--trim-solutions", "cut after the line of the last \\boxed{}")
    switch("--drop-incorrect-arithmetic", "drop solutions with an equation that does not hold")
    switch("--split-arithmetic", "write equations out step by step")
    switch("--remove-len-outlier-problems", "drop problems by their length in tokens of --tokenizer")
    option("--min-problem-length", type=at_least(0), metavar="N", help="tokens of the shortest (default: no limit)")
    option("--max-problem-length", type=at_least(0), metavar="N", help="tokens of the longest (default: no limit)")
    switch("--remove-len-outlier-solutions", "drop solutions by their length in tokens of --tokenizer")
    option("--min-solution-length", type=at_least(0), metavar="N", help="tokens of the shortest (default: no limit)")
    option("--max-solution-length", type=at_least(0), metavar="N", help="tokens of the longest (default: no limit)")
    switch("--use-chars-for-min-length", "--min-solution-length counts characters")
    switch("--add-code-execution-counts", f"add {COUNTER}, read off the solution")

    option, switch = group("of the solutions of a problem")
    kinds = ("all", "majority_code", "majority_text", "any_code")
    option("--code-text-filter", choices=kinds, help="keep those with code: all, or as most are, or if any has")
    option("--code-tags", metavar="TAGS", help=f"what code begins with: {', '.join(CODE_TAGS)}, or a .yaml file")

    option, switch = group("number and order")
    methods = ("random", "fair")
    option("--downsampling-method", choices=methods, help="fair: as many solutions of each problem as can be")
    option("--num-output-samples", type=at_least(1), metavar="N", help="rows to keep")
    option("--random-seed", type=int, default=42, metavar="N", help="of the order (default: 42)")
    switch("--shuffle", "shuffle the rows (the default)", True)

    option, switch = group("format")
    names = ", ".join(BUILT_IN_PROMPTS)
    option("--prompt-config", metavar="PROMPT", help=f"{names}, or a .yaml file with user and, if need be, system")
    option("--tokenizer", metavar="DIR", help="its chat template formats the rows; without it they stay plain text")
    option("--chat-template-kwargs", type=json_object, metavar="JSON", help="variables for the chat template")
    option("--system-message", metavar="TEXT", help="in place of the prompt's or the template's own; may be empty")
    option("--assistant-end", metavar="TEXT", help="put after a solution, in place of what the chat template puts")
    option("--metadata", type=json_object, metavar="JSON", help="fields to add to each row")
    switch("--keep-optional-keys", "keep a row's other fields, too (upstream: exclude_optional_keys=false)")
    return top


# (an option, those of which it needs one to have an effect): refused, not ignored.
NEEDS = (
    ("remove_contaminated", ("contamination_file",)),
    ("contamination_file", ("remove_contaminated",)),
    ("min_majority_votes", ("majority_filter",)),
    ("min_majority_percentage", ("majority_filter",)),
    ("majority_filter", ("min_majority_votes", "min_majority_percentage")),
    ("min_problem_length", ("remove_len_outlier_problems",)),
    ("max_problem_length", ("remove_len_outlier_problems",)),
    ("remove_len_outlier_problems", ("min_problem_length", "max_problem_length")),
    ("remove_len_outlier_problems", ("tokenizer",)),
    ("min_solution_length", ("remove_len_outlier_solutions",)),
    ("max_solution_length", ("remove_len_outlier_solutions",)),
    ("remove_len_outlier_solutions", ("min_solution_length", "max_solution_length")),
    ("remove_len_outlier_solutions", ("tokenizer",)),
    ("use_chars_for_min_length", ("min_solution_length",)),
    ("code_text_filter", ("code_tags",)),
    ("downsampling_method", ("num_output_samples",)),
    ("num_output_samples", ("downsampling_method",)),
    ("prompt_config", ("tokenizer",)),
    ("system_message", ("prompt_config",)),  # preprocessing.py:352
    ("chat_template_kwargs", ("tokenizer",)),
    ("assistant_end", ("tokenizer",)),
)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check(options: Options) -> None:
    """Refuse options that contradict each other or would have no effect. Raises Failure (status 2)."""

    def given(name: str) -> bool:
        value = getattr(options, name)
        return value is not None and value is not False

    if not options.name or not NAME.fullmatch(options.name):
        usage(f"{options.name!r} names no data set; set NAME (--name) to lower-case letters, digits, '.', '_', '-'")
    if options.input_key == options.output_key:
        usage(f"--input-key and --output-key are both {options.input_key}; name the problem's and the solution's field")
    if not options.add_correct and not options.add_incorrect:  # preprocessing.py:86
        usage("neither correct nor incorrect solutions are to be taken; drop --no-add-correct or give --add-incorrect")
    for name, others in NEEDS:
        if given(name) and not any(map(given, others)):
            usage(f"{flag(name)} has no effect without {' or '.join(map(flag, others))}; give both or neither")
    for what in ("problem", "solution"):
        low, high = getattr(options, f"min_{what}_length"), getattr(options, f"max_{what}_length")
        in_tokens = what == "problem" or not options.use_chars_for_min_length
        if in_tokens and low is not None and high is not None and low > high:
            usage(f"--min-{what}-length {low} is above --max-{what}-length {high}; swap them")
    own = {"conversation", "messages", "chat_template", "add_generation_prompt", "tokenize", "return_dict"}
    if taken := sorted(own & (options.chat_template_kwargs or {}).keys()):
        usage(f"--chat-template-kwargs must not set {taken[0]}; remove it")


def find_files(name: str, patterns: str) -> list[Path]:
    """The files of globs with commas between, or else blanks, each glob's in order (NeMo-Skills file_utils.py).

    Raises Failure (status 2) for a glob without files.
    """
    found = []
    for pattern in filter(None, map(str.strip, patterns.split("," if "," in patterns else None))):
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not matches:
            usage(f"{flag(name)}: no file matches {pattern!r}; correct it")
        found += map(Path, matches)
    for number, path in enumerate(found):
        if not path.is_file():
            usage(f"{flag(name)}: {path} is not a file; give a glob that matches files only")
        if path in found[:number]:
            usage(f"{flag(name)}: {path} is matched twice, its rows would count twice; correct the globs")
    return found


def read_yaml(name: str, path: Path) -> Row:
    """A YAML file that holds a mapping. Raises Failure (status 2) naming the option."""
    import yaml

    if not path.is_file():
        usage(f"{flag(name)}: there is no {path}; give a file or the name of a built-in one")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        usage(f"{flag(name)}: {path} is not valid YAML ({' '.join(str(error).split())[:120]}); fix it")
    if not isinstance(value, dict):
        usage(f"{flag(name)}: {path} holds no mapping; fix it")
    return value


class Prompt(NamedTuple):
    """What is asked: a format string, and a system message if there is one."""

    user: str
    system: str | None

    def fields(self) -> list[str]:
        """The fields of a row that `user` asks for. Raises ValueError for what is not a format string."""
        names = {name for _, name, _, _ in string.Formatter().parse(self.user) if name is not None}
        return sorted({re.split(r"[.\[]", name)[0] for name in names} - {"examples"})


def load_prompt(options: Options) -> Prompt | None:
    """The prompt that the options name (nemo_skills/prompt/utils.py:360-423). Raises Failure (status 2)."""
    name = options.prompt_config
    if options.tokenizer is None:
        return None
    config: Row = {}
    if name is None:
        user: Any = "{" + options.input_key + "}"
    elif name in BUILT_IN_PROMPTS:
        user = BUILT_IN_PROMPTS[name]
    elif name.endswith(".yaml"):
        config = read_yaml("prompt_config", Path(name))
        user = config.get("user")
        # Where few_shot_examples names no examples, there are none upstream either.
        shots = config.pop("few_shot_examples", None) or {}
        unknown = config.keys() - {"user", "system"}
        if not isinstance(shots, dict) or shots.keys() & {"examples_type", "retrieval_field", "retrieval_file"}:
            unknown.add("few_shot_examples")
        if unknown:
            usage(f"--prompt-config: {name} sets {min(unknown)}, which is not supported; remove it")
    else:
        usage(f"--prompt-config: no prompt named {name}; give {' or '.join(BUILT_IN_PROMPTS)}, or a .yaml file")
    system = config.get("system") if options.system_message is None else options.system_message
    if not isinstance(user, str) or not isinstance(system, str | None):
        usage(f"--prompt-config: {name} has no text in user, or none in system; fix it")
    prompt = Prompt(user, system)
    try:
        fields = prompt.fields()
    except ValueError as error:
        usage(f"--prompt-config: {name} is not a format string ({error}); fix it")
    known = {options.input_key, *KEYS_TO_KEEP} - {options.output_key}
    if options.add_code_execution_counts:
        known.add(COUNTER)
    for field in fields:
        if field == COUNTER and field not in known:
            usage(f"--prompt-config: {name} needs {field}; give --add-code-execution-counts")
        if field not in known:
            usage(f"--prompt-config: {name} asks for {field!r}, which rows do not have; use {', '.join(sorted(known))}")
    return prompt


def check_counter(options: Options, prompt: Prompt | None) -> None:
    """Refuse to count code executions where nothing would show it (math_sft.yaml:16). Raises Failure (status 2)."""
    asked = prompt is not None and COUNTER in prompt.fields()
    if options.add_code_execution_counts and not options.keep_optional_keys and not asked:
        usage(f"--add-code-execution-counts adds {COUNTER}, which no one would see; give --keep-optional-keys, too")


def code_begin(options: Options) -> str | None:
    """The text that a piece of code begins with. Raises Failure (status 2)."""
    name = options.code_tags
    if name is None or name in CODE_TAGS:
        return CODE_TAGS.get(name)
    if not name.endswith(".yaml"):
        usage(f"--code-tags: no tags named {name}; give one of {', '.join(CODE_TAGS)}, or a .yaml file")
    begin = read_yaml("code_tags", Path(name)).get("code_begin")
    if not isinstance(begin, str) or not begin:
        usage(f"--code-tags: {name} has no text in code_begin; fix it")
    return begin


def truth(row: Row, key: str) -> bool | None:
    """A field that says yes or no: true, 1 or "True", false, 0 or "False"; None where it is null or not there.

    Raises ValueError for anything else: the text "False" is not empty, so Python itself would take it for true.
    """
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"field {key!r} is {str(value)[:40]!r}, neither true nor false")


def contaminated_problems(path: Path) -> set[str]:
    """The problems of a contamination check's output that are contaminated (filters.py:236).

    Raises Failure for a line that does not say whether it is: nobody can say so for it.
    """
    if not path.is_file():
        usage(f"--contamination-file: there is no {path}; give the contamination check's output")
    found = set()
    for number, row in enumerate(read_jsonl(path), 1):
        if not isinstance(row.get("problem"), str):
            raise Failure(f"{path}:{number}: no text in field 'problem'; give the contamination check's output")
        try:
            contaminated = truth(row, "contaminated")
        except ValueError as error:
            raise Failure(f"{path}:{number}: {error}; give the contamination check's output") from None
        if contaminated is None:
            raise Failure(f"{path}:{number}: no field 'contaminated'; give the contamination check's output")
        if contaminated:
            found.add(row["problem"])
    return found


def other_files(options: Options) -> list[Path]:
    """The files besides the rows that decide the result. Raises Failure (status 2) for a folder without tokenizer."""
    found = [Path(name) for name in (options.prompt_config, options.code_tags) if name and name.endswith(".yaml")]
    if options.contamination_file is not None:
        found.append(Path(options.contamination_file))
    if options.tokenizer is not None:
        folder = Path(options.tokenizer)
        if not (folder / "tokenizer.json").is_file():
            usage(f"--tokenizer: {folder} has no tokenizer.json; give the folder of a model or of its tokenizer")
        names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
        found += [folder / name for name in names if (folder / name).is_file()]
        found += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return found


def result_keys(options: Options) -> dict[str, str]:
    """The options that decide the result, as text; those that were not given are left out."""
    values = {k: v for k, v in vars(options).items() if k not in ("name", "work", "workers") and v is not None}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
