"""The explorer in a real Chromium: its charts, a query, a sample, and nothing asked of any other host."""

from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest

from gradstore.pipelines.select import select
from gradstore.schemas import TABLES
from gradstore.selection import Settings
from gradstore.store import GradientStore, run_query
from tests.serving import serving

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)></script><b>Who?</b> {{1+1}} ${alert(2)}"
SLOW = 60_000  # ms: what a busy machine may take
QUERY = "SELECT sample_id, question, correctness FROM questions WHERE role = 'train' ORDER BY sample_id LIMIT 3"
# Where a sample's point lies on the page: Vega draws on a canvas, and its scene says where.
PLACE = """([figure, sample]) => {
  const box = document.querySelector(`#figure-${figure} .canvas`), view = box.vegaView;
  const canvas = box.querySelector("canvas").getBoundingClientRect(), { left, top } = view.padding();
  const walk = (mark, x, y) => {
    for (const item of mark.items) {
      if (mark.marktype === "symbol" && item.datum?.sample_id === sample) return [x + item.x, y + item.y];
      if (mark.marktype !== "group") continue;
      for (const inner of item.items) {
        const found = walk(inner, x + (item.x ?? 0), y + (item.y ?? 0));
        if (found) return found;
      }
    }
  };
  const [x, y] = walk(view.scenegraph().root, 0, 0);
  const origin = view.origin();
  return [canvas.left + left + origin[0] + x, canvas.top + top + origin[1] + y];
}"""


@pytest.fixture(scope="module")
def store(world, tmp_path_factory) -> GradientStore:
    """The world with two selections, and one more question, which is HTML, alone on its spot of the knowledge map."""
    folder = tmp_path_factory.mktemp("browser") / "store"
    world.copy(folder)
    store = GradientStore.open(folder)
    asked = run_query(store, "SELECT * FROM samples WHERE role = 'train' LIMIT 1").with_columns(
        sample_id=pl.lit("hostile"), question=pl.lit(HOSTILE)
    )
    probed = run_query(store, "SELECT * FROM probes WHERE checkpoint_id IS NULL LIMIT 1").with_columns(
        row_id=pl.lit("hostile"),
        sample_id=pl.lit("hostile"),
        correctness=pl.lit(0.31, pl.Float32),
        certainty=pl.lit(0.93, pl.Float32),
        generations=pl.lit([HOSTILE], pl.List(pl.String)),
        verdicts=pl.lit(["wrong"], pl.List(pl.String)),
    )
    for name, frame in (("samples", asked), ("probes", probed)):
        store.write(name, frame.to_arrow().cast(TABLES[name].schema))
    for method in ("grait", "cor-rait"):
        select(store, method, Settings(method, known=20, unknown=6))
    return store


@pytest.fixture(scope="module")
def served(store):
    with serving(store.uri) as served:
        yield served


def enter(page, served, **state):
    """Open the view that the state names. Vega arrives later, made when it is first asked for."""
    address = served.address + "".join(f"&{name}={quote(value)}" for name, value in state.items())
    page.goto(address, wait_until="domcontentloaded", timeout=SLOW)


def draws(page):
    page.wait_for_selector("#charts[data-drawn]", timeout=SLOW)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_with_its_charts(page, served, width, scheme):
    """No error in the console and no foreign request: the fixture looks."""
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    enter(page, served, selection="grait")
    draws(page)
    assert page.locator(".error").count() == 0
    assert "token" not in page.url
    assert page.evaluate("document.documentElement.scrollWidth") == width
    names = page.eval_on_selector_all("figure", "all => all.map((f) => f.id)")
    assert {"figure-knowledge_map", "figure-influence", "figure-weights"} <= set(names)
    for box in page.locator("figure canvas").all():
        assert box.bounding_box()["width"] > 200


def test_a_click_on_a_point_shows_its_question_as_text(page, served):
    enter(page, served, selection="grait")
    draws(page)
    page.locator("#figure-knowledge_map").scroll_into_view_if_needed()
    x, y = page.evaluate(PLACE, ["knowledge_map", "hostile"])
    page.mouse.move(x, y)
    page.wait_for_selector("#tip:not([hidden])")
    assert HOSTILE in page.text_content("#tip")
    page.mouse.click(x, y)
    page.wait_for_selector("#sample .question", timeout=SLOW)
    assert page.text_content("#sample .question") == HOSTILE
    assert HOSTILE in page.text_content("#sample .answers")
    assert "sample=hostile" in page.url
    assert page.locator("#sample img, #sample b:has-text('Who'), #tip img").count() == 0
    page.locator("#neighbours [role=status]").wait_for(state="detached", timeout=SLOW)
    page.errors.clear()  # Chromium tells of the 400: this sample has no gradient, hence no neighbours
    assert "gradient" in page.text_content("#neighbours")
    page.keyboard.press("Escape")
    page.wait_for_selector("#sample", state="hidden")
    x, y = page.evaluate(PLACE, ["knowledge_map", "hostile"])  # the chart took its width back
    page.mouse.click(x + 6, y - 6)  # a finger is no needle
    page.wait_for_selector("#sample .question", timeout=SLOW)
    assert page.text_content("#sample .question") == HOSTILE
    page.locator("#neighbours [role=status]").wait_for(state="detached", timeout=SLOW)
    page.errors.clear()  # as above


def test_a_query_runs_and_its_rows_lead_to_samples(page, served, store):
    expected = run_query(store, QUERY)
    enter(page, served, view="ask", selection="grait")
    page.wait_for_selector("#cookbook option:nth-child(5)", state="attached")
    page.fill("#sql", QUERY)
    page.press("#sql", "Control+Enter")
    page.wait_for_selector("#results tbody tr", timeout=SLOW)
    assert page.text_content("#outcome").startswith("3 rows in ")
    assert page.locator("#results tbody td:nth-child(2)").all_text_contents() == expected["question"].to_list()
    page.click("#results tbody tr:nth-child(2) button")
    page.wait_for_selector("#neighbours table", timeout=SLOW)
    assert page.text_content("#sample .question") == expected["question"][1]
    titles = page.locator("#neighbours h3").all_text_contents()
    assert titles[:2] == ["Pushes it towards refusing", "Pushes it against refusing"]
    neighbour = page.locator("#neighbours td button").first
    question = neighbour.text_content()
    neighbour.click()
    page.locator("#sample .question", has_text=question).wait_for(timeout=SLOW)


def test_a_view_can_be_linked(page, served, store):
    """The address alone brings the query and the sample back, in a tab of its own, without the token."""
    enter(page, served)
    page.wait_for_selector("#selection option", state="attached")
    page.wait_for_url(lambda url: "token" not in url)
    sample = run_query(store, QUERY)["sample_id"][0]
    tab = page.context.new_page()
    linked = f"http://{served.host}/#view=ask&selection=cor-rait&sample={sample}&sql={quote(QUERY)}"
    tab.goto(linked, wait_until="domcontentloaded", timeout=SLOW)
    tab.wait_for_selector("#sample .question", timeout=SLOW)
    assert tab.input_value("#sql") == QUERY
    assert tab.input_value("#selection") == "cor-rait"
    assert tab.locator("nav a[aria-current]").text_content() == "SQL"


def test_the_cookbook_fills_the_box_and_its_first_query_runs(page, served):
    enter(page, served, view="ask", selection="grait")
    page.wait_for_selector("#cookbook option:nth-child(5)", state="attached")
    page.select_option("#cookbook", index=2)
    assert "'grait'" in page.input_value("#sql")
    page.click("#run")
    page.wait_for_selector("#results tbody tr", timeout=SLOW)
    with page.expect_download(timeout=SLOW) as download:
        page.click("#download")
    text = Path(download.value.path()).read_text()
    assert text.count("\n") == page.locator("#results tbody tr").count() + 1


def test_a_wrong_query_shows_its_error_with_the_columns_there_are(page, served):
    enter(page, served, view="ask")
    page.fill("#sql", "SELECT nope FROM samples")
    page.click("#run")
    page.wait_for_selector("#outcome.error", timeout=SLOW)
    said = page.text_content("#outcome")
    assert "nope" in said
    assert "question" in said
    page.errors.clear()  # Chromium tells of the 400
    page.fill("#sql", "SELECT question FROM samples LIMIT 1")
    page.click("#run")
    page.wait_for_selector("#results tbody tr", timeout=SLOW)


def test_a_search_finds_and_shows_html_as_text(page, served):
    enter(page, served)
    page.fill("#search input", "<IMG")
    page.press("#search input", "Enter")
    page.wait_for_selector("#sample .found button", timeout=SLOW)
    assert page.locator("#sample .found button").all_text_contents() == [HOSTILE]
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#sample .found button")
    page.wait_for_selector("#sample .question", timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#neighbours [role=status]").wait_for(state="detached", timeout=SLOW)
    page.errors.clear()  # as above: no gradient


@pytest.mark.parametrize(
    ("script", "error"),
    [("document.body.innerHTML = '<b>x</b>'", "TypeError"), ("eval('1')", "EvalError")],
    ids=["markup", "eval"],
)
def test_the_policy_lets_no_text_become_markup_or_script(page, served, script, error):
    """Not even the page's own scripts could do it. (Later, for what Playwright evaluates itself is let through.)"""
    enter(page, served)
    page.wait_for_selector("#selection option", state="attached")
    later = f"() => {{ try {{ {script}; done('nothing') }} catch (error) {{ done(error.name) }} }}"
    assert page.evaluate(f"() => new Promise((done) => setTimeout({later}))") == error
    page.errors.clear()  # Chromium tells of what it refused


def test_without_the_token_the_page_says_where_to_find_it(page, served):
    page.goto(f"http://{served.host}/", wait_until="domcontentloaded", timeout=SLOW)
    page.wait_for_selector("#notice:not([hidden])", timeout=SLOW)
    assert "address that `gradstore explore` printed" in page.text_content("#notice")
    page.errors.clear()  # Chromium tells of the 401
