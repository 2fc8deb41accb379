"""What a search found, for people: candidates whole, the leaderboard, the report on one page and its Markdown twin."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from real_browser import opened, width_of
from test_cli import autopeft
from tiny_project import write_experiment
from tiny_scored import scored_run

import autopeft as package
from autopeft.axes import Axis, compact
from autopeft.begin import open_study
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.cli import fronts
from autopeft.errors import printable
from autopeft.experiment import Experiment
from autopeft.grid import Grid
from autopeft.hybrid import Hybrid
from autopeft.markup import markdown, markdown_table, tag
from autopeft.methods.bitfit import BitFit
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.reporting.drawings import beyond
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.keys import short_keys
from autopeft.session import Session

#: What a page or a pull request must show and never obey.
HOSTILE = "<script>alert(1)</script> | *a* `b` @all"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose names and labels are hostile, with what was learned."""
    folder = tmp_path_factory.mktemp("project")
    path = scored_run(folder, HOSTILE)
    # Reports take what is there.
    (path / "explain.json").write_text(json.dumps(SearchResult.open(path).explain().to_json()))
    return path


# --- keys, grids, axes ------------------------------------------------------------------------------------------------


def test_short_keys_are_unique_and_of_one_length() -> None:
    keys = ["aaaaaaaa1111", "aaaaaaaa2222", "bbbb00000000"]
    short = short_keys([*keys, keys[0]])
    assert short == {key: key[:9] for key in keys}
    assert set(map(len, short_keys(["0123456789ab", "f123456789ab"]).values())) == {6}
    assert short_keys([]) == {}


def test_a_grid_joins_equal_layers_and_keeps_sizes_apart() -> None:
    two = (LoRA(3, sites=("q",)), LoRA(1, sites=("v",)))
    hybrid = Hybrid.from_layers(5, {0: [Prefix(4)], 2: two, 3: two, 4: [BitFit(1)]}, [PromptTuning(7)])
    grid = Grid.of(hybrid.layers, hybrid.model)
    assert grid.headers == ("layer", "prompt_tuning", "prefix", "lora", "bitfit")
    cells = {line[0]: line[1:] for line in grid.lines}
    assert list(cells) == ["input", "0", "1", "2-3", "4"]
    assert (cells["input"], cells["0"], cells["1"]) == (["7", "", "", ""], ["", "4", "", ""], [""] * 4)
    assert sorted(cells["2-3"][2].split(" + ")) == ["1 v", "3 q"]
    assert cells["4"][3]
    assert Grid.of(((), ())).lines == [["0-1"]]


@pytest.mark.parametrize("values", [[0, 10, 1000], [3, 4, 5], [7, 7], [0.001, 0.9], [-5, 20, 4000], []])
def test_axes_keep_order_and_have_round_ticks(values: list[float]) -> None:
    for start, end in ((0.0, 100.0), (100.0, 0.0)):
        axis = Axis.over(values, start, end, decades=True)
        at = [axis.at(v) for v in sorted(values)]
        assert at == sorted(at, reverse=start > end)
        assert len(set(at)) == len(set(values)), "different values stand apart"
        assert all(0 <= pixel <= 100 for pixel in at)
        assert 2 <= len(axis.ticks()) <= 12
    assert [compact(v) for v in (0, 12, 1500, 2.5e6, 0.8512)] == ["0", "12", "1.5k", "2.5M", "0.851"]


def test_markup_escapes_what_is_not_its_own() -> None:
    made = tag("p", HOSTILE, tag("b", "x & y"), None, title='"quoted"\0')
    assert made == (
        '<p title="&quot;quoted&quot;\\x00">&lt;script&gt;alert(1)&lt;/script&gt; | *a* `b` @all<b>x &amp; y</b></p>'
    )


def texts_in(source: str) -> list[str]:
    """What CommonMark with tables makes of it, each paragraph and cell: nothing but texts is in one."""
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source):
        if token.type == "inline":
            assert {child.type for child in token.children or ()} <= {"text", "text_special"}, source
            found.append("".join(child.content for child in token.children or ()))
        else:
            assert token.type.partition("_")[0] in ("paragraph", "table", "thead", "tbody", "tr", "th", "td"), source
    return found


@given(st.text(st.sampled_from("ab1 .)_*`\\|<>[]()!#+-=~$&;@:/\"'é\n\0"), min_size=1, max_size=12))
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    plain = printable(" ".join(text.split()))
    assert texts_in(markdown(text, begins=True)) == [plain] * bool(plain)
    assert texts_in(markdown_table(["name", HOSTILE], [[text, "1"]])) == ["name", HOSTILE, plain, "1"]


# --- show, the leaderboard --------------------------------------------------------------------------------------------


def parsed(text: str) -> Any:
    """JSON as other languages read it: without NaN."""

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refused)


def test_every_candidate_is_shown_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = SearchResult.open(run)
    short = short_keys(e.key for e in result.evaluations)
    for e in {e.status: e for e in result.evaluations}.values():
        data = parsed(autopeft(capsys, "show", str(run), short[e.key], "--json")[1])
        assert (data["key"], data["status"], data["number"]) == (e.key, e.status, e.number)
        assert Hybrid.from_json(data["hybrid"]) == e.candidate.hybrid
        assert data["costs"]["trainable_params"]["value"] == e.metrics["trainable_params"]
        assert bool(data["commands"]) == (e.status == "done")
    best = result.front.best()
    status, out, err = autopeft(capsys, "show", str(run), "best")
    assert (status, err) == (0, "")
    tables = out[out.index("Layers by methods") : out.index("Take it home")]
    assert max(map(len, tables.splitlines())) <= 80
    for part in ("Layers by methods", "By epoch", "By seed", f"--pick {short[best.key]}", best.key, "seed 0"):
        assert part in out, out
    # What export takes is what is shown.
    assert result.front.pick(short[best.key]) is best


@pytest.mark.parametrize("pick", ["zzz", "", "0x"])
def test_no_such_candidate_is_one_line(pick: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = autopeft(capsys, "show", str(run), pick)
    assert (status, out, err.count("\n")) == (2, "", 1), err


def test_the_leaderboard_has_everyone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = autopeft(capsys, "front", str(run), "--all", "--layers")
    result = SearchResult.open(run)
    keys = short_keys(e.key for e in result.evaluations)
    rows = [line.split()[1] for line in out.splitlines()[3 : 3 + len(keys)]]
    assert (status, sorted(rows)) == (0, sorted(keys.values()))
    scores = {keys[e.key]: result.front.loss_of(e, result.front.score) for e in result.evaluations}
    assert [scores[key] for key in rows[:-1]] == sorted(scores[key] for key in rows[:-1])
    failed = next(e for e in result.evaluations if e.status == "failed")
    assert rows[-1] == keys[failed.key]
    assert f"{rows[-1]} failed: {HOSTILE}" in out
    for e in result.evaluations:
        assert " ".join(e.words.split()[:2]) in out
    found = parsed(autopeft(capsys, "front", str(run), "--all", "--json")[1])["candidates"]
    assert [keys[each["key"]] for each in found] == rows
    assert sum(each["on_front"] for each in found) == len(result.front.points)


def test_a_search_ends_with_what_it_says_of_its_space(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = SearchResult.open(run)
    found = result.advice()
    assert found
    fronts.advise(result)
    out = capsys.readouterr().out
    assert [line[1:] in out for line in found] == [True] * min(3, len(found)) + [False] * (len(found) - 3)
    assert json.loads((run / "explain.json").read_text())["advice"] == found


def test_a_healed_candidate_names_its_parent(run: Path) -> None:
    from autopeft.candidate import Origin
    from autopeft.reporting import facts_of

    result = SearchResult.open(run)
    parent = result.evaluations[0]
    origin = Origin(parent.key, f"{parent.key}-cut-100")
    child = Evaluation(parent.candidate, "done", parent.metrics, 99, origin=origin)
    facts = facts_of(result._searched(), child)
    assert (facts["born"], facts["parent"], facts["same_key"]) == ("healed", parent.key, [parent.number])
    assert facts["role"] == f"healed from {parent.key}"


# --- the report -------------------------------------------------------------------------------------------------------

_VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements and their attributes; every element ends where it shall."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in _VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


TITLES = ["What was asked", "The front", "Against controls", "Where methods sit", "Courses", "Members of the front"]


def test_a_report_is_one_file_that_obeys_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = autopeft(capsys, "report", str(run))
    # On a slow machine it is said that it takes a while.
    assert (status, [line for line in err.splitlines() if not line.startswith("writing the report")]) == (0, [])
    assert out.split()[-1] == str(run / "report.html")
    text = (run / "report.html").read_text()
    page = Page(text)
    assert len(text) < 200_000
    assert {name for name, _ in page.elements}.isdisjoint({"script", "img", "link", "iframe", "object", "form", "base"})
    for name, attributes in page.elements:
        assert not any(key.startswith("on") or key in ("src", "srcset", "action") for key in attributes), (
            name,
            attributes,
        )
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
    assert not re.search(r"url\(|@import", text)
    assert any("default-src 'none'" in str(attributes.get("content")) for _, attributes in page.elements)
    assert any(HOSTILE in said for said in page.texts)
    said = " ".join(" ".join(page.texts).split())
    for title in (*TITLES, "What it cost", "Reproduce and export", "autopeft search experiment.yaml", "prefers-color"):
        assert title in said, title
    # Of all that a front's member is linked to there is one.
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    links = {str(a["href"])[1:] for _, a in page.elements if "href" in a}
    assert links == set(names)
    assert len(names) == len(links)


def test_drawings_are_well_formed_and_show_the_front(run: Path) -> None:
    result = SearchResult.open(run)
    text = result.report(run.parent / "other.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    trees = [ElementTree.fromstring(each) for each in drawings]
    assert len(trees) >= 3
    space = "{http://www.w3.org/2000/svg}"
    front = trees[0]
    linked = front.findall(f"{space}a")
    assert len(linked) == len(result.front.points)
    bars = [e for e in front.findall(f"{space}path") if e.get("class") == "error"]
    assert len(bars) == len(result.front.points), "each was trained with two seeds"
    # Costs rise to the right; the best score is the highest.
    marks = [(each[0].get("cx") or each[0].get("x"), each[0].get("cy") or each[0].get("y")) for each in linked]
    at = [(float(x or 0), float(y or 0)) for x, y in marks]
    assert [x for x, _ in at] == sorted(x for x, _ in at)
    assert [y for _, y in at] == sorted((y for _, y in at), reverse=True)


def test_the_cost_table_has_units_and_names_to_the_left(run: Path) -> None:
    text = SearchResult.open(run).report(run.parent / "units.html").read_text()
    (table,) = re.findall(r"What it cost</h2>.*?(<table>.*?</table>)", text, flags=re.DOTALL)
    assert '<th class="t" style="text-align:left">cost</th>' in table
    (memory,) = re.findall(r"training memory</td><td>([^<]*)</td>", table)
    assert memory.endswith("iB")
    assert "learning_rate" not in "".join(re.findall(r"<text.*?</text>", text))


def test_marks_on_the_edge_of_the_plot_are_said_to_be_worse(run: Path) -> None:
    front = SearchResult.open(run).front
    least = front.points[0]
    others = [
        Evaluation(least.candidate, "done", {**least.metrics, "accuracy": score, "trainable_params": 10**6}, 100 + i)
        for i, score in enumerate([-9.0, *[0.5] * 9])
    ]
    assert [beyond(ParetoFront([*front.points, *more], front.objectives)) for more in (others[1:], others)] == [0, 1]


def test_the_markdown_twin_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = run.parent / "report.md"
    assert autopeft(capsys, "report", str(run), "--markdown", "--to", str(to))[0] == 0
    text = to.read_text()
    assert [f"## {title}" in text for title in TITLES] == [True] * len(TITLES)
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script" not in plain
    assert "@all" not in plain
    assert "\\*a\\* \\`b\\`" in plain
    for block in re.findall(r"(?:^\|.*\|\n?)+", plain, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block
    front = SearchResult.open(run).front
    assert all(f"| {e.key[:6]}" in plain for e in front.points)


def test_a_page_that_cannot_be_written_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = autopeft(capsys, "report", str(run), "--to", str(run / "study.db" / "x.html"))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "give another file (to)" in err


def test_a_search_without_anything_is_reported_too(tmp_path: Path) -> None:
    session = Session(Experiment.load(write_experiment(tmp_path)))
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    open_study(session, folder)
    page = SearchResult.open(folder.path).report().read_text()
    assert "No finished candidate is within the budget." in page
    assert "This search has not come to its end" in page
    Page(page)


def test_a_damaged_explanation_is_told_and_not_believed(run: Path) -> None:
    file = run / "explain.json"
    kept = file.read_text()
    file.write_text('{"score": "accuracy"}')
    try:
        text = SearchResult.open(run).report(run.parent / "x.html").read_text()
    finally:
        file.write_text(kept)
    assert "not what &#x27;autopeft explain&#x27; wrote" in text


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_light_and_dark_and_as_wide_as_it_is(
    dark: bool, width: int, run: Path, tmp_path: Path, browser: Any
) -> None:
    page = opened(browser, SearchResult.open(run).report(tmp_path / "report.html"), width, dark=dark)
    ground, ink = page.evaluate(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number))"
    )
    assert (max(ground) < 60 and min(ink) > 180) if dark else (min(ground) > 230 and max(ink) < 90)
    assert width_of(page) == width
    for plot in page.locator("svg.plot").all():
        assert plot.bounding_box()["width"] <= width
    assert page.locator("svg circle.dot.on").count() >= 1
    assert page.complaints == []


# --- from Python ------------------------------------------------------------------------------------------------------


def test_the_package_lists_what_it_has() -> None:
    assert {name for name in dir(package) if not name.startswith("_")} == set(package.__all__) - {"__version__"}


def test_values_say_what_they_are(run: Path, tmp_path: Path) -> None:
    hybrid = Hybrid.from_layers(12, {10: [LoRA(8)], 11: [LoRA(8)]})
    candidate = Candidate(hybrid, {"learning_rate": 0.001})
    assert repr(hybrid) == "Hybrid(12 layers: lora 8 q,v in 10-11)"
    assert repr(candidate) == f"Candidate({candidate.key}: lora 8 q,v in 10-11; learning_rate 0.001)"
    assert repr(Job(candidate)).startswith("Job(candidate=Candidate(")
    result = SearchResult.open(run)
    assert repr(result).startswith(f"SearchResult({str(run)!r}: 9 candidates, finished; ParetoFront(")
    assert result.front.best().key in repr(result.front)
    assert repr(ParetoFront([], result.front.objectives)).endswith("trainable_params (min))")
    assert "10-11" in hybrid._repr_html_()
    for value in (hybrid, candidate, result, result.front):
        Page(value._repr_html_())
    # What cannot be read is said, and not raised: a notebook shows the value of a cell's last line.
    (tmp_path / "experiment.yaml").write_text("x: 1")
    assert "no study here" in repr(SearchResult.open(tmp_path))
