"""The report in a real Chromium: wide and narrow, light and dark, brushed, and with a question that is an attack."""

import json

import polars as pl
import pytest

from gradstore.identity import row_id
from gradstore.pipelines.ingest import ingest
from gradstore.pipelines.report import figures, report
from gradstore.pipelines.select import select
from gradstore.selection import Settings
from gradstore.store import GradientStore

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=alert(1)></script><b>"
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="session")
def store(world, tmp_path_factory):
    """A copy of the world's store in which one more question, its answer and its subject are HTML; and a selection."""
    folder = tmp_path_factory.mktemp("report")
    world.copy(folder / "store")
    lines = [json.dumps({"question": HOSTILE, "answer": HOSTILE, "subject": HOSTILE}) + "\n"]
    (folder / "hostile.jsonl").write_text("".join(lines))
    ingest(folder / "store", [folder / "hostile.jsonl"], preset="qa")
    store = GradientStore.open(folder / "store")
    new = store.scan("samples").filter(pl.col("question") == HOSTILE).collect()["sample_id"].item()
    _measure_like_another(store, new)
    select(store, HOSTILE, Settings(known=8, unknown=6, seed=1))
    return store


def _measure_like_another(store, new):
    """Give sample ``new`` the probe and the gradients of an unknown one, so that it is in every picture."""
    probe = store.scan("probes").filter(pl.col("correctness") == 0).sort("sample_id").head(1).collect()
    like, probe_id = probe["sample_id"].item(), probe["probe_id"].item()
    renamed = probe.with_columns(sample_id=pl.lit(new), row_id=pl.lit(row_id(new, probe_id)))
    store.write("probes", renamed.to_arrow())
    for recipe in store.recipe_ids():
        rows = store.scan(f"gradients_{recipe}").filter(pl.col("sample_id") == like).collect()
        ids = [row_id(new, r, c, recipe) for r, c in rows.select("response", "checkpoint_id").iter_rows()]
        rows = rows.with_columns(pl.Series("row_id", ids), sample_id=pl.lit(new))
        store.write("gradients", rows.to_arrow())


@pytest.fixture(scope="session")
def address(store, tmp_path_factory):
    """file:// address of the report."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report(store, HOSTILE), encoding="utf-8")
    return path.as_uri()


def open_drawn(page, address, width=1280, scheme="light"):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    page.locator(f"html[data-drawn={scheme}]").wait_for(state="attached")


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_page(page, store, address, width, scheme):
    open_drawn(page, address, width, scheme)
    assert page.requests == [address], "the report asks for something besides itself"
    assert page.locator(".chart canvas").count() == len(figures(store, HOSTILE))
    for box in page.locator(".chart canvas").all():
        place = box.bounding_box()
        assert place["x"] >= 0, "a figure hangs out on the left"
        assert place["x"] + place["width"] <= width, "a figure hangs out on the right"
        assert place["height"] > 80, "a figure is empty"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


def test_the_dark_page_has_dark_ground_and_pictures_without_their_own(page, address):
    open_drawn(page, address, scheme="dark")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(n) for n in ground.removeprefix("rgb(").removesuffix(")").split(",")) < 64
    corners = page.evaluate(
        "[...document.querySelectorAll('canvas')].map(c => c.getContext('2d').getImageData(1, 1, 1, 1).data[3])"
    )
    assert set(corners) == {0}, "a picture brings a ground of its own into the dark"


def test_the_figures_follow_the_reader_from_light_to_dark(page, address):
    open_drawn(page, address)
    count = page.locator(".chart canvas").count()
    page.emulate_media(color_scheme="dark")
    page.locator("html[data-drawn=dark]").wait_for(state="attached")
    assert page.locator(".chart canvas").count() == count


def test_brushing_lists_the_questions_in_the_rectangle(page, store, address):
    open_drawn(page, address)
    points = figures(store, HOSTILE)["influence"]["datasets"]["points"]
    assert f"{len(points)} questions in the picture" in page.locator(".status").inner_text()
    canvas = page.locator("[data-figure=influence] canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    at = [(place["x"] + place["width"] * x, place["y"] + place["height"] * y) for x, y in ((0.5, 0.2), (0.98, 0.6))]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=8)
    page.mouse.up()
    page.get_by_text("in the rectangle").wait_for()
    brush = page.evaluate("gradstoreViews.influence.signal('brush')")
    inside = {
        p["sample_id"] for p in points if all(min(brush[f]) <= p[f] <= max(brush[f]) for f in ("i_ref", "i_over"))
    }
    assert 0 < len(inside) < len(points), f"the rectangle {brush} says nothing"
    rows = page.locator("#questions tbody tr")
    listed = rows.evaluate_all("rows => rows.map(r => r.dataset.sampleId)")
    assert len(listed) == min(len(inside), 100)
    assert set(listed) <= inside
    page.mouse.click(place["x"] + place["width"] * 0.3, place["y"] + place["height"] * 0.5)  # takes it away
    page.get_by_text("questions in the picture").wait_for()


def test_a_question_that_is_html_stays_text(page, address):
    open_drawn(page, address)
    cell = page.locator("#questions td", has_text=HOSTILE).first
    assert cell.inner_text() == HOSTILE
    assert HOSTILE in page.locator("h1").inner_text(), "the selection bears the same name"
    assert page.locator("img").count() == 0
    assert page.locator("main b").count() == 0
    view = "gradstoreViews.knowledge_map"
    page.locator("[data-figure=knowledge_map]").scroll_into_view_if_needed()
    place = page.locator("[data-figure=knowledge_map] canvas").bounding_box()
    x, y = page.evaluate(
        f"""question => {{
            const p = {view}.data('points').find(p => p.question === question), [left, top] = {view}.origin();
            const {{ left: right, top: down }} = {view}.padding();
            return [{view}.scale('x')(p.x) + left + right, {view}.scale('y')(p.y) + top + down];
        }}""",
        HOSTILE,
    )
    page.mouse.move(place["x"] + x, place["y"] + y, steps=3)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert tooltip.locator("img, b, script").count() == 0


def test_an_empty_store_opens_too(page, tmp_path):
    path = tmp_path / "empty.html"
    path.write_text(report(GradientStore.create(tmp_path / "store")), encoding="utf-8")
    page.goto(path.as_uri())
    assert page.get_by_text("The store has no questions to train on.").is_visible()
    assert "gradstore ingest" in page.locator(".missing code").inner_text()
