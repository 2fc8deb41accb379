"""MLflow's own pages on searches, in a real browser: what they make of names, tables, plots and columns of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from real_browser import chromium, opened
from tiny_scored import scored_run
from tiny_server import Server

from autopeft.browsing.replay import gathered
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.tracking.mlflow_store import list_of, page_of

#: What a scatter plot of the page has been given; nothing before there is one.
_SCATTER = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)
  .filter(data => data.type.startsWith('scatter')).map(data => ({x: [...data.x], y: [...data.y]}))[0]"""


@dataclass(frozen=True)
class Pages:
    """A server of MLflow's over two searches, `a` and `b`."""

    server: Server
    experiment_id: str
    a: SearchResult

    def runs(self, kind: str) -> list[Any]:
        from mlflow import MlflowClient

        where = f"tags.`autopeft.kind` = '{kind}'"
        return list(MlflowClient(self.server.uri).search_runs([self.experiment_id], where))

    @property
    def of_a(self) -> str:
        """The page of the first search."""
        found = next(run.info.run_id for run in self.runs("search") if run.info.run_name == "a")
        return page_of(self.server.uri, self.experiment_id, found)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Pages]:
    with chromium():
        """Skips before anything is made for nothing."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [scored_run(folder / name, "<b>words</b>", name) for name in ("a", "b") if not (folder / name).mkdir()]
    for run in runs:
        RunFolder(run).write_plots(SearchResult.open(run).front)
        SearchResult.open(run).report(explain=False)
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        database, shown, left_out = gathered(folder, runs)
    assert shown is not None
    assert left_out == []
    server = Server(database)
    server.start()
    yield Pages(server, shown.experiment_id, SearchResult.open(runs[0]))
    server.kill()


def test_the_list_has_the_columns_that_matter(pages: Pages, browser: Any) -> None:
    page = opened(browser, list_of(pages.server.uri, pages.experiment_id), width=2400)
    for name in "ab":
        page.get_by_role("link", name=name, exact=True).wait_for()
    heads = [head.strip() for head in page.locator(".ag-header-cell").all_inner_texts()]
    for name in ("best_accuracy", "best_test_accuracy", "best_trainable_params", "hypervolume", "mean_accuracy"):
        assert name in heads
    assert len(heads) < 20
    best = pages.a.front.loss_of(pages.a.front.best(), pages.a.front.score)
    cells = page.locator('.ag-cell[col-id*="metrics.`best_accuracy`"], .ag-cell[col-id*="best_accuracy"]')
    assert any(text.strip().startswith(f"{abs(best):.4f}"[:5]) for text in cells.all_inner_texts())


def test_a_search_says_its_front_and_how_to_export(pages: Pages, browser: Any) -> None:
    page = opened(browser, pages.of_a)
    page.get_by_text("Show more").first.click()
    rows = page.locator("table").filter(has_text="hybrid in layers").locator("tbody tr")
    front = pages.a.front
    assert rows.count() == len(front.points)
    for row, e in zip(rows.all_inner_texts(), front.points[::-1], strict=True):
        assert e.key[:6] in row
        assert ("best" in row) == (e is front.best())
    assert f"autopeft export {pages.a.run_dir} --pick best --to out/best" in page.inner_text("code >> nth=0")
    assert "&emsp;" not in page.inner_text("body")


def test_plots_and_the_report_are_drawn(pages: Pages, browser: Any) -> None:
    page = opened(browser, pages.of_a.replace("?", "/artifacts/pareto.html?"))
    page.frame_locator("iframe").locator("svg.main-svg").first.wait_for()
    assert page.frame_locator("iframe").locator(".scatterlayer .point").count() >= len(pages.a.front.points)
    page.get_by_text("report.html").first.click()
    page.frame_locator("iframe").get_by_role("heading", name="The front", exact=True).wait_for()


def test_candidates_are_compared_by_what_they_differ_in(pages: Pages, browser: Any) -> None:
    ids = [run.info.run_id for run in pages.runs("candidate") if run.info.status == "FINISHED"]
    chosen = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([pages.experiment_id]))}"
    page = opened(browser, f"{pages.server.uri}/#/compare-runs?{chosen}")
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    page.locator(".parcoords .y-axis").nth(3).wait_for()
    axes = page.locator(".parcoords .axis-title").all_text_contents()
    # All are numbers that every candidate has, the last one the score.
    assert axes == ["layers", "learning_rate", "size.lora", "accuracy"]
    page.get_by_text("Scatter Plot").click()
    # Its points may be drawn where only the graphics card sees them.
    page.wait_for_function(_SCATTER)
    drawn = page.evaluate(_SCATTER)
    assert [sum(v is not None for v in drawn[axis]) for axis in "xy"] == [len(ids), len(ids)]
