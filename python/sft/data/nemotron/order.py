"""The chosen rows in the curriculum's order."""

from dataclasses import dataclass
from pathlib import Path

from sft.data.nemotron.shards import Curated, read_index
from sft.data.parts import shard_file
from sft.rows import spool


@dataclass
class Output:
    """A file to be written: the rows of a state, in one of the two forms."""

    target: Path
    form: str
    state: int
    chunk: int
    shards: list[Curated]
    folder: Path


def write_output(output: Output) -> spool.Written:
    """Rows by length, those with reasoning on and off in turns of `chunk`, then the rest of the longer ones.

    Memory: some 40 bytes a row of the output. Raises OSError.
    """
    import numpy as np

    state, at = np.fromfile(output.folder / "state", np.uint8), 0
    places, lengths, off = [], [], []
    for number, shard in enumerate(output.shards):
        index = read_index(output.folder, shard.name)
        chosen = np.flatnonzero(state[at : at + len(index)] == output.state)
        places.append(spool.place(index[output.form], number)[chosen])
        lengths.append(index["completion"][chosen])
        off.append(chosen >= shard.rows["on"])
        at += len(index)
    rows, turns = [], []
    for turn, mode in enumerate((~np.concatenate(off), np.concatenate(off))):
        mine = np.flatnonzero(mode)
        rows.append(mine[np.argsort(np.concatenate(lengths)[mine], kind="stable")])
        turns.append(np.arange(len(mine)) // output.chunk * 2 + turn)
    order = np.concatenate(rows)[np.argsort(np.concatenate(turns), kind="stable")]
    files = [shard_file(output.folder, shard.name, output.form) for shard in output.shards]
    return spool.write(files, spool.in_order(np.concatenate(places), order), output.target)
