"""How long the rows are: from the report, or assumed from what was published."""

import math
from dataclasses import dataclass, field
from typing import Any

from sft.lib.done import read_done
from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.recipe.engines import engine_of
from sft.recipe.keys import KEYS, Recipe
from sft.recipe.paths import Paths

# Rows of OpenMathReasoning's splits. With additional_problems' 193,170 they sum to the 5,678,317 that its card states;
# the card states the splits rounded: 3.2M, 1.7M, 566K.
PUBLISHED_ROWS = {"cot": 3_201_061, "tir": 1_718_466, "genselect": 565_620}
# Training rows of the Q&A sets (DollyDataModule's 80% of 15,011 rows; SquadDataModule's 95% of 87,599 by datasets'
# train_test_split: NeMo 8cfedd7 nemo/collections/llm/gpt/data/{dolly,squad}.py), and tokens of a row of each schema
# where no report has counted them: guesses. For Llama-Nemotron there is a bound: 2000 steps of 256 rows in the 48 hours
# that are published, at the 12,473 tokens/s that nemo-automodel publishes, are 4,200 tokens a row.
SCHEMA_ROWS = {"dolly": 12_008, "squad": 83_219}
SCHEMA_TOKENS = {"nemotron": 3500, "dolly": 250, "squad": 200}
# Tokens of a row where no report has counted them. A guess for long reasoning; of rows with a lower limit (FILTER_
# MIN_TOKENS), twice that limit. Lengths are then taken as exponentially distributed, so E[t^2] = 2 E[t]^2.
ASSUMED_TOKENS, ASSUMED_SPREAD, ASSUMED_BIN_FILL = 6000, 2.0, 0.95
# nemo-automodel's rows keep their order (automodel/packed.py): simulated with 3,500 tokens a row, sequences of 8,192.
ASSUMED_FILL_IN_ORDER = 0.75
TEXT_BYTES = 3.5  # a token; data that is not there yet holds its text twice, in all.jsonl and splits; an assumption


# --- data ----------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Rows and lengths. mean, square: of a row's tokens that the model computes on, and of their square."""

    rows: int | None
    mean: float
    square: float
    bins: int  # sequences that hold a global batch of rows; without packing the rows themselves
    fill: float  # how full those are
    counted: bool  # by a report, not assumed
    source: str = ""
    notes: list[str] = field(default_factory=list)


def moments(report: dict[str, Any]) -> tuple[float, float]:
    """(mean, mean square) of a row's length, over all rows; one too long for SEQ_LEN counts as zero.

    The report has the mean but no squares: they come from its histogram's classes, at their middle, scaled by how far
    the middles' mean is from the true one. Where rows are too long, the mean comes from the histogram as well.
    """
    edges, counts = report["histogram"]["from"], report["histogram"]["rows"]
    width = edges[1] - edges[0] if len(edges) > 1 else 2 * report["tokens"]["mean"]
    middles = [(n, start + width / 2) for start, n in zip(edges, counts, strict=True) if start < report["seq_len"]]
    total = sum(counts)
    mean = sum(n * x for n, x in middles) / total
    square = sum(n * x * x for n, x in middles) / total
    if report["over_seq_len"] or not mean:
        return mean, square
    true = report["tokens"]["mean"]
    return true, max(true * true, square * (true / mean) ** 2)


def from_report(recipe: Recipe, report: dict[str, Any]) -> Data:
    mean, square = moments(report)
    if not mean > 0:
        raise Failure(
            f"no row has a token that could be trained on within SEQ_LEN={report['seq_len']:,}, says the data report; "
            "raise SEQ_LEN or make other data"
        )
    about = "every row" if report["whole"] else f"a sample of {report['counted']:,} rows"
    packed = recipe["PACKING"]
    bins, fill = (report["bins_per_batch"], report["bin_fill"]) if packed else (recipe["GLOBAL_BATCH"], 1.0)
    return Data(report["rows"], mean, square, bins, fill, True, f"the data report, from {about}")


def assumed(recipe: Recipe, rows: int | None, again: str) -> Data:
    """What is taken for granted before the data are counted, with notes that say so."""
    if recipe["SCHEMA"] != "openmath":
        return assumed_schema(recipe, rows, again)
    splits = recipe["SPLITS"]
    filtered = recipe["FILTER_SPLITS"]
    known = recipe["DATASET"].endswith("/OpenMathReasoning")
    seq_len = recipe["SEQ_LEN"]
    notes, source = [], "the prepared data"
    tokens = {s: ASSUMED_TOKENS for s in splits}
    for split in set(filtered) & {"cot", "tir"}:
        tokens[split] = 2 * recipe["FILTER_MIN_TOKENS"]
    weights = {s: PUBLISHED_ROWS[s] for s in splits} if known else dict.fromkeys(splits, 1)
    if rows is None and known and not recipe["FILTER_SPLITS"]:
        rows, source = sum(weights.values()), "as published; not counted here"
    elif rows is None:
        source = ""
        why = f"what the filter keeps of {', '.join(filtered)}" if filtered else "the number of rows"
        notes.append(f"{why} is not known before make data {again}; so there are no epochs")
    # A mix of rows, the filtered splits at their unfiltered weight for want of a better one.
    mean = min(sum(weights[s] * tokens[s] for s in splits) / sum(weights.values()), seq_len / 2)
    return guessed(recipe, rows, mean, source, notes, again)


def guessed(recipe: Recipe, rows: int | None, mean: float, source: str, notes: list[str], again: str) -> Data:
    """The data of a recipe by a guessed mean length in tokens, with a note that says so."""
    batch, seq_len = recipe["GLOBAL_BATCH"], recipe["SEQ_LEN"]
    fill = ASSUMED_BIN_FILL if engine_of(recipe).bins == "best_fit" else ASSUMED_FILL_IN_ORDER
    bins = math.ceil(batch * mean / (seq_len * fill)) if recipe["PACKING"] else batch
    fill = fill if recipe["PACKING"] else 1.0
    notes.append(f"no report yet: assuming {mean:,.0f} tokens a row, a guess; run make report {again}")
    square = min(ASSUMED_SPREAD * mean * mean, mean * seq_len)
    return Data(rows, mean, square, bins, fill, False, source, notes)


def assumed_schema(recipe: Recipe, rows: int | None, again: str) -> Data:
    """The same for the data of the NeMo 2.0 tutorials: rows as CURATE_ROWS takes them, or as published."""
    schema, source, notes = recipe["SCHEMA"], "the prepared data", []
    generated = recipe["DATASET_SOURCE"] == "generate"
    if rows is None and schema == "nemotron":
        rows, source = recipe["CURATE_ROWS"] or None, "CURATE_ROWS, if so many are left"
        if rows is None:
            notes.append(f"how many rows are left is not known before make data {again}; so there are no epochs")
    elif rows is None and not generated:
        rows, source = SCHEMA_ROWS[schema], "as published; not counted here"
    elif rows is None:
        notes.append(f"the number of rows is not known before make data {again}; so there are no epochs")
    return guessed(recipe, rows, min(SCHEMA_TOKENS[schema], recipe["SEQ_LEN"] / 2), source, notes, again)


def data_of(recipe: Recipe, paths: Paths, again: str) -> tuple[Data, int | None]:
    """(rows and lengths, bytes of the data on disk): counted where a report of this recipe is, else assumed."""
    made = read_json(paths.data / "DONE") if (paths.data / "DONE").is_file() else {}
    size = sum(made["bytes"].values()) if "bytes" in made else None
    rows = made.get("rows", {}).get("all")
    stale = ""
    if (paths.report / "DONE").is_file():
        done = read_done(paths.report, f"run: make report {again}")
        try:
            same = all(recipe["text"].get(k) == v for k, v in done["recipe"].items() if k in KEYS)
            same = same and made.get("outputs", {}).get(paths.rows.name) in (None, done["inputs"]["data"])
            if same:
                return from_report(recipe, done["report"]), size
        except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise Failure(f"{paths.report}/DONE is not a report ({why}); remove it, run: make report {again}") from None
        stale = "the report is of another recipe or other data, and left aside"
    data = assumed(recipe, rows, again)
    data.notes[:0] = [stale] if stale else []
    return data, size
