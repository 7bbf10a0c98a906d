"""Make SFT data from model generations: read, filter, group, sample and format them -> input/output JSONL.

    python python/tools/sft_data.py --name mydata --input-files 'gen/output-rs*.jsonl' --tokenizer dir \\
        --prompt-config generic/math

Writes WORK/data/<name>/round1/all.jsonl and DONE. Options, their order of work and the rows that come out are those of
nemo_skills.training.prepare_data with math_sft.yaml (NeMo-Skills 8b18f39
nemo_skills/training/data_preparation_utils/), so that its results can be had byte for byte; docs/departures.md lists
where they differ. Texts go through worker processes in blocks and wait on disk: the memory does not grow with the rows,
except for some 200 bytes each while they are put in order.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import os
from pathlib import Path

from sft.data.generations.blocks import Job
from sft.data.generations.format import load_template, prompt_frame
from sft.data.generations.options import (
    check,
    check_counter,
    code_begin,
    contaminated_problems,
    find_files,
    load_prompt,
    other_files,
    parser,
    result_keys,
)
from sft.data.generations.prepare import alone, prepare, report, scan
from sft.lib import files as lib_files
from sft.lib.done import describe, is_done, new_folder, write_done
from sft.lib.errors import Failure, run, usage
from sft.lib.file_sets import check_no_copies
from sft.lib.progress import log


def main() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    options = parser(__doc__).parse_args()
    check(options)
    files = [
        (path, name == "input_files")
        for name in ("input_files", "preprocessed_dataset_files")
        for path in find_files(name, getattr(options, name) or "")
    ]
    if not files:
        usage("no input; set INPUT (--input-files) or --preprocessed-dataset-files")
    contaminated: set[str] = set()
    if options.contamination_file is not None:
        contaminated = contaminated_problems(Path(options.contamination_file))
    job = Job(options, load_prompt(options), contaminated, code_begin(options))
    check_counter(options, job.prompt)

    target = Path(options.work).resolve() / "data" / options.name / "round1"
    keys = result_keys(options)
    inputs, blocks, lines = scan(files)
    check_no_copies({name: digest for name, digest in inputs.items() if Path(name).stat().st_size})
    inputs |= {str(path.absolute()): lib_files.sha256(path) for path in other_files(options)}
    if is_done(target, keys, inputs):
        log(f"sft-data: {target} is already there")
        return
    if target.exists():
        raise Failure(f"{target} is there without DONE; move it away or set another NAME")
    frame = None
    if job.prompt:
        job = job._replace(template=alone(load_template, job))
        frame = alone(prompt_frame, job)
    with new_folder(target) as part:
        facts = prepare(job, blocks, lines, part)
        write_done(part, keys, inputs, prompt_frame=frame, **facts, **describe(part))
    report(target, facts)


if __name__ == "__main__":
    run(main)
