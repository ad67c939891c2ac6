"""Rules of the repository: what the documents say is so, and what the code must keep to."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
import typer
from PIL import Image

import skinvae
from skinvae.cli import app
from skinvae.config import load_config
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from tests.finished_table import write_model
from tests.regenerate_docs import SCORE_TABLE_PAGE, score_table_page

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "docs/cookbook.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/report.md",
    "docs/score-table.md",
    "docs/security.md",
)
CLI = typer.main.get_command(app)

COMES_WITH = {"botocore": "s3fs", "triton": "torch"}
"""Imported, but not declared: these allow few versions of them, and a bound of our own could only contradict that."""


def repository_files() -> list[str]:
    """Every file that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


FILES = repository_files()
MODULES = [name for name in FILES if re.match(r"(skinvae|jobs)/.*\.py$", name)]
DEPLOY = [name for name in FILES if re.match(r"deploy/.*\.py$", name)]
CONFIGS = [name for name in FILES if name.startswith("configs/")]
JOBS = [name for name in FILES if re.match(r"jobs/(?!__init__)\w+\.py$", name)]


def fenced(text: str, language: str) -> list[str]:
    """The code blocks of a Markdown text in one language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


# The tree


def tree_entries(listing: str) -> Iterator[str]:
    """Paths of a listing indented by two spaces a level, folders with a trailing slash; files need a description."""
    folders: list[str] = []
    for line in listing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, description = line.strip().partition(" ")
        assert description.strip() or name.endswith("/"), f"'{name}' has no description"
        folders = [*folders[:depth], name]
        yield "".join(folders)


def expected_entries() -> set[str]:
    """Every file of jobs, configs, deploy, skinvae and docs with its folders; tests/ and the root one level deep."""
    names = [name for name in FILES if not name.endswith(("__init__.py", "py.typed"))]
    in_full = {name for name in names if name.startswith(("jobs/", "configs/", "deploy/", "skinvae/", "docs/"))}
    folders = {f"{parent}/" for name in in_full for parent in map(str, Path(name).parents) if parent != "."}
    tests = {"/".join(name.split("/")[:2]) + "/" * (name.count("/") > 1) for name in FILES if name.startswith("tests/")}
    top = {f"{name.split('/')[0]}/" for name in FILES if "/" in name and not name.startswith(".")}
    return in_full | folders | (tests - {"tests/__init__.py"}) | top | {"cluster.yaml"}


def test_the_readme_shows_the_tree_that_is_there() -> None:
    (listing,) = (block for block in fenced(README, "") if block.startswith("jobs/"))
    shown = list(tree_entries(listing))
    assert len(shown) == len(set(shown))
    assert set(shown) == expected_entries()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    outside_blocks = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:skinvae|jobs|configs|deploy|tests|docs)/[\w./-]*)`", outside_blocks)
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in linked if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


# Commands


def shell_commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words, without comments; lines that end in a backslash are joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def skinvae_words(command: list[str]) -> list[str] | None:
    """Verb and arguments of `skinvae VERB ...` or `... python jobs/VERB.py ...`; None for another command."""
    while command and re.fullmatch(r"\w+=\S*", command[0]):
        command = command[1:]
    if command[:1] == ["skinvae"]:
        return command[1:]
    for index, word in enumerate(command):
        if re.fullmatch(r"jobs/\w+\.py", word):
            assert (ROOT / word).is_file(), f"{word} does not exist"
            return [Path(word).stem, *command[index + 1 :]]
    return None


def check_command(words: list[str]) -> None:
    """Parse a command as the command line would, and the settings it names; nothing is run."""
    verb, *arguments = words
    assert verb in CLI.commands, f"there is no verb '{verb}'"
    command = CLI.commands[verb]
    if "--help" in arguments:
        return
    parsed = command.make_context(verb, list(arguments)).params
    config = parsed.get("config")
    load_config(str(ROOT / config) if config else None, parsed.get("assignments") or ())


def commands_in(text: str) -> list[list[str]]:
    return [words for command in shell_commands(text) if (words := skinvae_words(command))]


OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
README_COMMANDS = [words for block in fenced(README, "sh") for words in commands_in(block)]
OPERATIONS_COMMANDS = [words for block in fenced(OPERATIONS, "sh") for words in commands_in(block)]


@pytest.mark.parametrize("words", [*README_COMMANDS, *OPERATIONS_COMMANDS], ids=" ".join)
def test_commands_of_the_documents_parse(words: list[str]) -> None:
    check_command(words)


def test_the_readme_shows_every_verb_that_users_start() -> None:
    assert {words[0] for words in README_COMMANDS} >= {"train", "score", "evaluate", "report"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_verbs_options_and_targets_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    parameters = [param for command in CLI.commands.values() for param in command.params]
    options = {option for param in parameters for option in (*param.opts, *param.secondary_opts)}
    elsewhere = {"--address", "--runtime-env-json", "--working-dir", "--packages"}  # of `ray job submit`, and Spark's
    assert set(re.findall(r"`skinvae (\w+)", text)) <= set(CLI.commands)
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= options | elsewhere | {"--help"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets


@pytest.mark.parametrize("verb", sorted(name for name, command in CLI.commands.items() if not command.hidden))
def test_the_example_in_the_help_of_a_verb_parses(verb: str) -> None:
    epilog = CLI.commands[verb].epilog or ""
    example = re.match(r"Example: (skinvae .*?)(?:\. |\n\n|$)", epilog)
    assert example, "every verb's help ends with an example"
    (words,) = commands_in(example[1])
    assert words[0] == verb
    check_command(words)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_loads_and_its_header_says_the_command(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    load_config(str(ROOT / name))
    header = "\n".join(line.removeprefix("#").strip() for line in text.split("\n[", 1)[0].splitlines())
    commands = [words for words in commands_in(header.replace("'", "’")) if words]
    assert commands, f"{name}: its header must hold the exact command"
    for words in commands:
        check_command(words)
        assert name in words, f"{name}: the command in the header uses another config"


def test_the_queries_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image_ids = [f"ISIC_{index:07d}" for index in range(8)]
    make_table(Location.parse("out/isic/scores"), image_ids)
    labels = pd.DataFrame({"image": image_ids, "MEL": [0.0, 1.0] * 4, "NV": [1.0, 0.0] * 4})
    labels.to_csv("ISIC2018_Task3_Training_GroundTruth.csv", index=False)
    write_model(tmp_path / "out/isic/model", pd.DataFrame({"image_id": image_ids[:1], "group": None, "split": "train"}))
    Image.new("RGB", (60, 45), "pink").save("photo.jpg")
    # In a process of its own, as a reader would: DuckDB's default connection is shared by all that one process runs.
    script = "\n".join(fenced(README, "python"))
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert shown.stdout.startswith("1.0\n8 rows so far\n"), shown.stderr
    assert re.search(r"0 +photo +ok +\d+\.\d+ ", shown.stdout), shown.stderr
    assert shown.stdout.rstrip().endswith(f"{image_ids[3]}        103.0"), shown.stderr
    (queries,) = fenced(README, "sql")
    with duckdb.connect() as connection:
        counted, found = (connection.sql(query).fetchall() for query in queries.split(";") if query.strip())
    assert counted == [("ok", 8)]
    assert [row[0] for row in found] == [*image_ids[1::2][::-1], *image_ids[::2][::-1]]


def make_table(location: Location, image_ids: list[str]) -> None:
    """A finished score table of one slice, in which every second image scores high."""
    slice_id = SliceId("a" * 16, "b" * 16, 0, len(image_ids))
    known = {
        "status": "ok",
        "scoring_id": slice_id.scoring_id,
        "scored_at": pd.Timestamp("2026-01-01", tz="UTC"),
        "error": None,
    }
    frame = pd.DataFrame(
        {
            field.name: [known.get(field.name, "x" if pa.types.is_string(field.type) else 1)] * len(image_ids)
            for field in SCORE_SCHEMA
        }
    )
    frame["image_id"] = image_ids
    frame["vae_reconst"] = [index + 100.0 * (index % 2) for index in range(len(image_ids))]
    rows = pa.Table.from_pandas(frame, schema=SCORE_SCHEMA, preserve_index=False)
    table = ScoreTable.open_or_create(location)
    table.commit_slices([write_slice(location, slice_id, rows, provenance={})], provenance={})
    swap_slices_for_parts(table, provenance={}, write_all=lambda parts: [write_part(location, part) for part in parts])


# The documents' other promises


def test_the_score_tables_page_is_what_the_code_says() -> None:
    written = SCORE_TABLE_PAGE.read_text(encoding="utf-8")
    assert written == score_table_page(), "run `python -m tests.regenerate_docs`"


def test_the_changelog_names_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(skinvae.__version__)}\]", changelog, flags=re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", "docs/operations.md"])
def test_exit_codes_of_a_document_are_those_of_the_errors(document: str) -> None:
    codes: set[int] = {0}
    waiting: list[type] = [skinvae.errors.SkinvaeError]
    while waiting:
        error = waiting.pop()
        codes.add(error.exit_code)
        waiting += error.__subclasses__()
    table = (ROOT / document).read_text(encoding="utf-8").split("| exit code |")[1].split("\n\n")[0]
    assert set(map(int, re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE))) == codes


def test_operators_read_of_sentences_that_the_code_says() -> None:
    sources = "".join((ROOT / name).read_text(encoding="utf-8") for name in [*MODULES, *DEPLOY])
    joined = re.sub(r'"\s*f?"', "", sources)  # a sentence over several lines
    table = OPERATIONS.split("| the sentence begins |")[1]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    quoted = [words for row in rows for words in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) >= 10
    assert [words for words in quoted if words not in joined] == []


# The code


@pytest.mark.parametrize("name", JOBS)
def test_a_job_only_calls_the_command_line(name: str) -> None:
    source = (ROOT / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    verb = Path(name).stem
    assert verb in CLI.commands
    docstring, *body = ast.parse(source).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node) for node in body] == [
        "from skinvae.cli import run_verb",
        f"if __name__ == '__main__':\n    run_verb('{verb}')",
    ]


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def distribution(requirement: str) -> str:
    """The normalised name in 'Name[extra]>=1; marker'."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def third_party_imports() -> set[str]:
    """Top-level names that skinvae/ imports, without its own and the standard library's."""
    names = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"skinvae", "tomllib"}


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    providers = importlib.metadata.packages_distributions()
    imported = {
        distribution(providers.get(name, [name])[0]) for name in third_party_imports() if name not in COMES_WITH
    }
    declared = {distribution(requirement) for requirement in project()["dependencies"]}
    optional = {distribution(requirement) for requirement in project()["optional-dependencies"]["mlflow"]}
    assert imported == declared | optional
    assert set(COMES_WITH.values()) <= declared


def test_every_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for requirement in project()["dependencies"]:
        (line,) = (line for line in lines if line.strip().startswith(f'"{requirement}",'))
        assert re.search(r"#\s*\S+", line), f"{requirement} gives no reason"


def test_no_file_names_a_place_on_one_machine() -> None:
    host_path = re.compile(r"(?<![\w.}*])/(?:work|root|tmp)/")
    found = []
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if host_path.search(line)]
    assert not found


def test_a_handler_of_every_exception_raises_again_or_says_why_not() -> None:
    found = []
    for module in MODULES:
        source = (ROOT / module).read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            blind = re.search(r"\b(Base)?Exception\b", caught)
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            if blind and not raises_again and not re.search(r"# noqa: BLE001 \w+", lines[node.lineno - 1]):
                found.append(f"{module}:{node.lineno}")
    assert not found
