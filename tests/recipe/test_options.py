"""Options: cluster.env.example lists the cluster's, with the default of each; who else has a default has the same."""

import re

import pytest

from conftest import ROOT, Repo, failed, ok

EXAMPLE = (ROOT / "cluster.env.example").read_text()
DEFAULTS = dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.+)$", EXAMPLE, re.MULTILINE))
ROWS = [
    line.split(maxsplit=4) for line in (ROOT / "scripts/options.txt").read_text().splitlines() if line[:1].isalpha()
]
SHELL = ". scripts/lib.sh; load_cluster; load_defaults; "


def code(*patterns: str) -> dict[str, str]:
    """Path -> text of the files below the repository that match."""
    files = (path for pattern in patterns for path in sorted(ROOT.glob(pattern)))
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def test_the_defaults() -> None:
    assert DEFAULTS == {
        "LAUNCHER": "local", "JOBS": "4", "GPUS_FLAG": "gpus-per-node", "EXCLUSIVE": "yes", "SAVE_RESERVE": "120",
        "MAIL_TYPE": "END,FAIL", "GPU": "h100", "BRING_UP": "600", "CONTAINER_RUNTIME": "none",
        "NEMO_RL_DIR": "/opt/nemo-rl", "RAY_WAIT": "1800", "RAY_TRIES": "5", "RAY_TMPDIR": "/tmp",
        "SET_UP_RESERVE": "600",
    }  # fmt: skip


def test_the_environment_and_cluster_env_go_before_a_default(repo: Repo) -> None:
    show = SHELL + r'printf "%s\n" "$SAVE_RESERVE" "$JOBS" "$LAUNCHER" "$RAY_WAIT"; env | grep -c ^RAY_WAIT || true'
    assert ok(repo.call("bash", "-c", show)).split() == ["120", "4", "local", "1800", "0"]
    (repo.root / "cluster.env").write_text("SAVE_RESERVE=300\nJOBS=7\n")
    assert ok(repo.call("bash", "-c", show, JOBS=9, LAUNCHER="")).split() == ["300", "9", "local", "1800", "0"]
    bare = ok(repo.call("bash", "-c", ". scripts/lib.sh; for n in $(compgen -e); do echo $n; done"))
    assert not {"SAVE_RESERVE", "LAUNCHER"} & set(bare.split())


def test_no_script_has_another_default() -> None:
    """What runs inside an image, apart from the rest, has its own: the same."""
    own = {}
    for path, text in code("scripts/*.sh", "scripts/**/*.sh", "sbatch/*", "tests/bench/*.sh").items():
        for name, value in re.findall(r"\$\{([A-Z][A-Z0-9_]*):[-=]([^}$]+)\}", text):
            if name in DEFAULTS:
                own.setdefault((name, value), set()).add(path.rpartition("/")[2])
    assert own == {
        ("NEMO_RL_DIR", "/opt/nemo-rl"): {"nemo-rl-inside.sh"},
        ("RAY_WAIT", "1800"): {"ray.sh"},
        ("RAY_TRIES", "5"): {"ray.sh"},
        ("RAY_TMPDIR", "/tmp"): {"ray.sh"},
    }
    assert all(DEFAULTS[name] == value for name, value in own)


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("SAVE_RESERVE", r"^SAVE_RESERVE = (\S+)"),
        ("SAVE_RESERVE", r"""get\(["']SAVE_RESERVE["']\) or (\w\w+)"""),
        ("BRING_UP", r"^BRING_UP = (\S+)"),
        ("SET_UP_RESERVE", r"^SET_UP_RESERVE = (\S+)"),
        ("GPU", r'"--gpu", default="(\w+)"'),
        ("RAY_WAIT", r'"--timeout", type=float, default=(\w+)'),
    ],
)
def test_python_has_the_same_default(name: str, pattern: str) -> None:
    found = [m for text in code("python/**/*.py", "scripts/**/*.py").values() for m in re.findall(pattern, text, re.M)]
    assert found and set(found) <= {DEFAULTS[name], f"{DEFAULTS[name]}.0"}, found


def test_which_checkpoints_a_link_keeps_has_one_default() -> None:
    shell = re.findall(r"\$\{KEEP_CHECKPOINTS:-(\w+)\}", "".join(code("scripts/**/*.sh", "sbatch/*").values()))
    python = re.findall(r'"--keep", default="(\w+)"', "".join(code("python/**/*.py").values()))
    assert {*shell, *python} == {"saved"} and python


def test_an_option_stands_in_the_table_once_and_is_no_recipes_key(repo: Repo) -> None:
    names = [row[0] for row in ROWS]
    assert len(set(names)) == len(names) and all(len(row) >= 4 for row in ROWS)
    assert all(len(row) == 5 for row in ROWS if row[3] != "-"), "a value that may be wrong has a remedy"
    keys = set(ok(repo.python("tools/recipe", "--keys")).split())
    assert keys & set(names) == {"ENGINE", "NODES", "GPUS_PER_NODE"}, "of make container and make plan"
    assert not keys & set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", EXAMPLE, re.MULTILINE))
    targets = set(re.findall(r"^([a-z0-9-]+): .*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, who, engines, *_ in ROWS:
        assert set(who.split(",")) <= targets | {"all", "chain", "recipe"}, name
        assert set(engines.split(",")) <= {"-", "automodel", "nemo-rl", "nemo2"}, name


@pytest.mark.parametrize("name, value", [(name, value) for name, value in DEFAULTS.items()])
def test_a_default_is_a_value_that_the_table_takes(name: str, value: str) -> None:
    values = {row[0]: row[3] for row in ROWS}.get(name, "-")
    assert values == "-" or re.fullmatch(values, value)


def test_a_chain_keeps_the_defaults_that_it_was_queued_with(repo: Repo) -> None:
    """In its snapshot, for the working copy may change before its jobs start."""
    made = ok(repo.call("scripts/snapshot.sh", repo.work / "run")).strip()
    assert made and (repo.root / made / "cluster.env.example").read_text() == EXAMPLE


def test_options_of_a_call_are_words_of_their_own(repo: Repo) -> None:
    script = '. scripts/lib.sh; options one=ONE two=TWO three=THREE; printf "%s|" "${OPTIONS[@]}"'
    assert ok(repo.call("bash", "-c", script, ONE="a b", TWO="", THREE="-1")) == "--one|a b|--three=-1|"
    split = '. scripts/lib.sh; split_args; printf "%s|" "${WORDS[@]}"'
    assert ok(repo.call("bash", "-c", split, ARGS="--x 'a b' $HOME")) == "--x|a b|$HOME|"
    failed(repo.call("bash", "-c", split, ARGS="--x 'a"), "a quote that is not closed; close it", status=(2,))


def test_a_wrong_value_is_refused_by_a_job_as_by_the_chain(repo: Repo) -> None:
    for stage, option, words in (
        ("train", {"SAVE_RESERVE": "2m"}, "SAVE_RESERVE=2m; give seconds"),
        ("train", {"KEEP_CHECKPOINTS": "all"}, "KEEP_CHECKPOINTS=all: engine automodel of this recipe takes no notice"),
        ("average", {"REMOVE_AFTER_AVERAGE": "yes"}, "REMOVE_AFTER_AVERAGE=yes; give 1 to remove"),
        ("eval", {"EVAL_BATCH": "0"}, "EVAL_BATCH=0; give a number from 1 up"),
    ):
        failed(repo.call("bash", f"sbatch/{stage}.sbatch", "mini", "1", **option), words, status=(2,))
    assert not repo.work.exists()
