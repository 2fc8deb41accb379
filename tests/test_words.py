"""What the README and the pages say: commands parse, experiments are read, Python compiles, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_architecture import LEVEL
from test_space import TINY
from typer.main import get_command

import autopeft
from autopeft.budget import Budget
from autopeft.cli.app import app
from autopeft.cli.listing import KINDS
from autopeft.config import read_value
from autopeft.experiment import Experiment
from autopeft.resources import shipped
from autopeft.space import SearchSpace
from autopeft.space_spec import read_spec

ROOT = Path(autopeft.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a fragment of an experiment is read with.
REST = {"name": "page", "model": "minilm", "task": "docstrings", "trials": 12}
VERBS: Any = get_command(app).commands  # type: ignore[attr-defined]


def _blocks(language: str) -> Iterator[Any]:
    """The fenced blocks of a language, by page and line."""
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            yield pytest.param(block[1], id=f"{page.name}:{line}")


def _commands(line: str) -> Iterator[list[str]]:
    """Commands of ours in a line of a shell, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;<>"):
            words.append(word)
            continue
        if words and words[0] == "autopeft":
            yield words[1:]
        words = []


COMMANDS = [
    pytest.param(words, id=f"{block.id}: {shlex.join(words)}")
    for block in _blocks("bash")
    for line in str(block.values[0]).splitlines()
    for words in _commands(line)
]


def _parsed(words: list[str]) -> dict[str, Any]:
    """The values of a command's arguments and options; nothing is looked up and nothing runs."""
    verb, *rest = words
    command = VERBS[verb]
    for parameter in command.params:
        # Ours alone: each call of `get_command` makes commands of its own.
        parameter.callback = None
    with command.make_context(verb, rest) as context:
        return dict(context.params)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words: list[str]) -> None:
    given = _parsed(words)
    if words[0] == "list":
        assert given["what"] in (*KINDS, "runs")
    if (named := given.get("experiment")) is not None:
        assert named in shipped("experiments") or named.endswith(".yaml")
    if fields := given.get("given"):
        source = ROOT / "experiments" / "examples" / "quickstart.yaml"
        assert Experiment.load(source, given=fields) != Experiment.load(source)


def test_there_are_commands_of_all_verbs() -> None:
    assert {words.values[0][0] for words in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("words", [["searc", "x"], ["search"], ["search", "x", "--trails", "3"], ["ui", "a", "b"]])
def test_a_wrong_command_is_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"searc|[Mm]issing|trails|extra"):
        _parsed(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_sentences_are_of_their_verb(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for said in re.findall(r"`autopeft ([^`]+)`", prose):
        verb, *rest = said.split()
        if verb in ("VERB", "--install-completion"):
            continue
        options = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= options | {"--help"}, said


@pytest.mark.parametrize("text", _blocks("yaml"))
def test_experiments_and_spaces_are_read(text: str) -> None:
    for part in re.split(r"^---$", text, flags=re.MULTILINE):
        data = read_value(part, "page")
        if "blocks" in data:
            read_spec(data)
            if all(block.get("method") != "peft" for block in data["blocks"].values()):
                assert SearchSpace.load(data, TINY).dimensions
            continue
        experiment = Experiment.of(REST | data, "page")
        Budget.resolve(experiment.budget, TINY, length=16)


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_compiles_and_its_imports_are_there(text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "autopeft":
            assert hasattr(autopeft, node.attr), f"autopeft has no {node.attr}"


def test_the_method_of_the_readme_is_one() -> None:
    (text,) = (str(block.values[0]) for block in _blocks("python") if "class Shift" in str(block.values[0]))
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(text, "page", "exec", dont_inherit=True), found)
    shift = found["Shift"](4, sites=("q", "v"))
    assert shift.num_params(TINY) == 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", page.read_text())):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.is_file(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


def test_every_room_is_in_the_architecture() -> None:
    named = set(re.findall(r"`([\w/]+)`", (ROOT / "ARCHITECTURE.md").read_text().split("## Floors")[1]))
    assert {room for room in LEVEL if not {room, f"{room}/"} & named} == set()


def test_all_pages_are_in_the_contents() -> None:
    listed = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]["font"] is False


def test_ci_finds_the_commands_that_it_runs() -> None:
    text = (ROOT / "README.md").read_text()
    for marker in re.findall(r"^readme (\S+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE):
        assert f"<!-- {marker} -->\n```bash\n" in text
