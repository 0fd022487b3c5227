"""The page in a browser: it opens, sorts, compares, and runs nothing that a model wrote.

Needs `pip install -r requirements-html.txt -r requirements-browser.txt` and Chromium (`apt-get install chromium`).
"""

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from rkd.evaluation.results import WinRate, failed_result, write_result
from tests.support.made_up_jobs import answered, queries, result, rollout, write_job, write_many

pytest.importorskip("plotly", reason="pip install -r requirements-html.txt")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-browser.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]

HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'><!-- &lt;b&gt;"
VIEWS = ["jobs", "cells", "curves", "numbers", "questions", "rollouts"]
TABLES = Path(__file__).parents[3] / "experiments" / "results" / "mini" / "tables"
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of four jobs: two seeds of SFT, one of Ours, and one that failed."""
    from rkd.reporting.page.page import write_page

    root, asked = tmp_path_factory.mktemp("jobs"), queries(50)
    right = [str(k) for k in range(50)]
    half = [*right[:25], *(["?"] * 25)]
    first_ten = [*right[:10], *(["?"] * 40)]
    told = [f"It is {answer}." for answer in right]
    for made, rollouts in (
        (result("SFT", 0, answered(first_ten, told)), [rollout("Why?", "So.")]),
        (result("SFT", 1, answered(half, told)), [rollout("Why?", "Thus.", episodes=9)]),
        (result("Ours", 0, answered(right, told)), []),
    ):
        write_job(root, made, rollouts, asked)
    write_result(failed_result("DPO", 0, {}, None, {}, "no memory"), root / "failed")
    return f"file://{write_page([root], root / 'page')}"


@pytest.fixture
def opened(browser):
    """Opens a page; at the end it has written nothing to the console, and asked for nothing but itself."""
    said, asked, contexts = [], [], []

    def open_page(address, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("html[data-opened]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert len(asked) == len(contexts)


def view(page, name):
    page.evaluate("name => { location.hash = name; }", name)
    title = {"cells": "Table", "numbers": "Labels and costs"}.get(name, name.capitalize())
    page.get_by_role("heading", name=title, exact=True, level=2).wait_for()


def column(page, title):
    """The texts of a column of the table."""
    return page.locator(f"td[data-label='{title}']").all_inner_texts()


def test_every_view_opens_without_an_error(opened, address):
    page = opened(address)
    for name in VIEWS:
        view(page, name)
    assert page.title() == "rkd report"


def test_the_table_of_jobs_sorts_by_its_heads(opened, address):
    page = opened(address)
    head = page.get_by_role("columnheader", name="Accuracy")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "Row") == ["Ours", "SFT", "SFT", "DPO"]  # 100 %, 50 %, 20 %; the failed job has no accuracy
    assert column(page, "Accuracy % [95 %]")[:2] == ["100.0 [90.0, 100.0]", "50.0 [40.0, 60.0]"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "Row") == ["SFT", "SFT", "Ours", "DPO"]


def test_the_table_of_jobs_filters_by_words_and_by_row(opened, address):
    page = opened(address)
    page.get_by_label("Search").fill("large sft")
    assert (column(page, "Row"), column(page, "Seed")) == (["SFT", "SFT"], ["0", "1"])
    assert "2 of 4 jobs" in page.get_by_role("status").all_inner_texts()
    page.get_by_label("Row").select_option("Ours")
    assert column(page, "Row") == []
    page.get_by_label("Search").fill("")
    assert column(page, "Row") == ["Ours"]


def test_two_jobs_are_compared_question_by_question(opened, address):
    page = opened(address)
    page.get_by_role("button", name="Choose none").click()
    for name in ("SFT, sums, seed 0", "SFT, sums, seed 1"):
        page.get_by_label(f"Choose {name}").check()
    view(page, "questions")
    # Seed 0 is right on 0 to 9, seed 1 on 0 to 24.
    for name in ("All (50)", "Only A right (0)", "Only B right (15)", "Both right (10)", "Both wrong (25)"):
        page.get_by_role("button", name=name, exact=True).wait_for()
    page.get_by_role("button", name="Only B right (15)").click()
    shown = page.get_by_role("article").first.inner_text()
    assert "How much is 10 + 0?" in shown
    assert "Gold answer: 10" in shown
    assert "A: ✗ wrong, answer ?" in shown
    assert "B: ✓ right, answer 10" in shown
    assert page.get_by_role("article").count() == 15
    page.get_by_label("Search in questions").fill("sums-24")
    assert page.get_by_role("article").count() == 1


def test_of_an_open_ended_task_preferences_and_references_are_shown(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    texts = ["Tea for two.", "No."]
    rate = WinRate(length_controlled=0.5, characters=8, reference_characters=8, unreadable=0)
    test = dataclasses.replace(answered(texts, texts), outcomes=[0.75, 0.0], correct=1, accuracy=0.375, win_rate=rate)
    asked = [dataclasses.replace(one, gold_answer="A reference.") for one in queries(2)]
    write_job(tmp_path, result("Ours", 0, test), [], asked)
    page = opened(f"file://{write_page([tmp_path], tmp_path / 'page')}")
    view(page, "questions")
    page.get_by_role("button", name="Right (1)").click()
    shown = page.get_by_role("article").inner_text()
    for text in ("Reference: A reference.", "A: preferred 0.75", "Tea for two."):
        assert text in shown


def test_lists_are_paged(opened, address):
    page = opened(address)
    view(page, "questions")
    page.get_by_text("1–20 of 50 questions").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("41–50 of 50 questions").wait_for()
    assert page.get_by_role("article").count() == 10
    page.get_by_role("button", name="Next").click(force=True)  # there is no further page
    assert page.get_by_role("article").count() == 10


def test_a_cell_of_the_table_opens_its_questions_and_a_question_its_response(opened, address):
    page = opened(address)
    view(page, "cells")
    # (20 + 50) / 2 = 35, and the sample standard deviation of two values is their distance over √2: 30 / 1.414.
    page.get_by_role("button", name="35.0 ± 21.2 (2), questions of SFT on sums").click()
    page.get_by_role("button", name="Right in all (10)").wait_for()
    page.get_by_role("button", name="In some (15)").click()
    item = page.get_by_role("article").first
    assert "sums-10" in item.inner_text()
    item.get_by_role("button", name="seed 1").click()
    page.get_by_role("heading", name="Questions", exact=True).wait_for()
    assert "It is 10." in page.get_by_role("article").inner_text()


def test_without_a_chosen_job_and_for_failed_ones_the_views_say_so(opened, address):
    page = opened(address)
    page.get_by_role("button", name="Choose none").click()
    for name in ("curves", "numbers"):
        view(page, name)
        page.get_by_text("No job is chosen.").wait_for()
    view(page, "jobs")
    page.get_by_label("Choose DPO").check()
    view(page, "curves")
    page.get_by_text("The chosen jobs have no curves.").wait_for()
    view(page, "numbers")
    page.get_by_text("The chosen jobs have no numbers.").wait_for()


def test_a_kept_table_has_published_values_and_its_cells_open(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    for file in TABLES.glob("table11.*"):
        shutil.copy(file, tmp_path)
    page = opened(f"file://{write_page([tmp_path], tmp_path / 'page')}")
    page.get_by_role("combobox", name="Table").select_option("table11")
    assert len(column(page, "Row")) == 9  # three rows of three seeds
    view(page, "cells")
    page.get_by_role("combobox", name="Table").select_option("table11")
    ours = page.get_by_role("row").filter(has_text="PPO (Ours)")
    # table11.md: 57.9 ± 0.4 beside the paper's 66.03, which it prints as 66.0
    assert ours.get_by_role("cell").all_inner_texts()[2:4] == ["57.9 ± 0.4 (3)", "66.0"]
    ours.get_by_role("button").first.click()
    page.get_by_role("button", name="All (1,000)").wait_for()


def test_jobs_of_one_row_and_seed_in_other_settings_are_told_apart(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    for threshold, text in ((0.5, "0"), (0.9, "?")):
        made = result("Ours", 0, answered([text], [text]))
        config = {**made.config, "labels": {"threshold": threshold}}
        write_job(tmp_path / str(threshold), dataclasses.replace(made, config=config), [])
    page = opened(f"file://{write_page([tmp_path], tmp_path / 'page')}")
    view(page, "cells")
    assert sorted(column(page, "sums")) == ["0.0 (1)", "100.0 (1)"]
    assert len({row for row in column(page, "Row") if row.startswith("Ours, setting ")}) == 2


def test_curves_of_the_chosen_jobs_lie_over_each_other(opened, address):
    page = opened(address)
    page.get_by_role("button", name="Choose all shown").click()
    view(page, "curves")
    page.locator(".plot .scatterlayer .trace").nth(2).wait_for(state="attached")
    assert page.locator(".plot .scatterlayer .trace").count() == 3  # the failed job has no curve
    page.get_by_label("Curve").select_option("rl/reward")
    titles = [button.get_attribute("data-title") for button in page.locator(".modebar-btn").all()]
    assert titles == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]  # none that uploads
    # 0.1 k + 0.01 seed for k of 0 to 4
    assert sorted(column(page, "Last")) == ["0.4", "0.4", "0.41"]


def test_label_statistics_stand_side_by_side_with_their_consensus(opened, address):
    page = opened(address)
    view(page, "numbers")
    row = page.get_by_role("row").filter(has_text="precision")
    assert row.get_by_role("cell").all_inner_texts() == ["precision", "0.75", "0.75"]
    page.locator(".plot .barlayer .trace").nth(1).wait_for(state="attached")


def test_rollouts_of_two_jobs_show_each_part_of_the_reward(opened, address):
    page = opened(address)
    view(page, "rollouts")
    page.get_by_role("combobox", name="Model B").select_option(label="SFT, sums, seed 1")
    item = page.get_by_role("article")
    for text in ("Why?", "So.", "Thus.", "Label: 1"):
        assert text in item.inner_text()
    shown = {tuple(row.get_by_role("cell").all_inner_texts()) for row in item.get_by_role("row").all()}
    assert {("check", "-0.25", "-0.25"), ("learned", "0.5", "0.5"), ("advantage", "-1.5", "-1.5")} <= shown


def test_rollouts_are_put_in_order_by_their_reward(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    rolled = [rollout(f"Question {k}?", "So.", episodes=k, reward=reward) for k, reward in enumerate((0.5, 2.0, -1.0))]
    write_job(tmp_path, result("Ours", 0, answered(["0"], ["0"])), rolled)
    page = opened(f"file://{write_page([tmp_path], tmp_path / 'page')}")
    view(page, "rollouts")
    for order, places in (("order of training", "012"), ("highest reward", "102"), ("lowest reward", "201")):
        page.get_by_role("combobox", name="Order").select_option(label=order)
        shown = [item.inner_text().split("?")[0] for item in page.get_by_role("article").all()]
        assert shown == [f"Question {place}" for place in places]


def test_a_job_s_own_page_has_its_failure_and_back_leads_to_the_jobs(opened, address):
    page = opened(address)
    page.get_by_role("button", name="DPO", exact=True).click()
    page.get_by_text("Failure: no memory").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()


def test_what_a_model_or_a_dataset_wrote_is_shown_as_text_and_does_not_run(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    row = HOSTILE.replace("/", "")  # a folder is named after the row
    made = result(row, 0, answered([HOSTILE, HOSTILE], [HOSTILE, HOSTILE]))
    names = {part: {"name": HOSTILE} for part in ("dataset", "student", "teacher")}
    asked = [dataclasses.replace(one, question=HOSTILE, gold_answer=HOSTILE) for one in queries(2)]
    rolled = rollout(HOSTILE, HOSTILE, answer=HOSTILE, label=HOSTILE, parts={HOSTILE: 1.0})
    write_job(tmp_path, dataclasses.replace(made, config=names), [rolled], asked)
    page = opened(f"file://{write_page([tmp_path], tmp_path / 'page')}")
    for name in [*VIEWS, "job-0"]:
        page.evaluate("name => { location.hash = name; }", name)
        page.wait_for_timeout(700)
        assert "<script>window.ran = 1<" in page.locator("main").inner_text(), name
        assert page.locator("main img, main script, .plot a").count() == 0
    assert page.evaluate("window.ran") is None


def test_the_policy_stops_scripts_and_requests_even_if_markup_got_in(browser, address):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("html[data-opened]", state="attached")
        page.evaluate("""() => {
            document.querySelector("main").innerHTML = "<img src=x onerror='window.ran = 1'>";
            const script = document.createElement("script");
            script.textContent = "window.ran = 2";
            document.head.append(script);
        }""")
        stopped = page.evaluate("fetch('http://127.0.0.1:9/').then(() => null, String)")
        page.wait_for_timeout(200)
        assert "Failed to fetch" in stopped
        assert page.evaluate("window.ran") is None


def test_the_keyboard_reaches_links_sorting_and_choosing_with_a_visible_focus(opened, address):
    page = opened(address)
    keyboard = page.keyboard

    def focused():
        return page.evaluate("document.activeElement.textContent || document.activeElement.getAttribute('aria-label')")

    def tab_to(text):
        for _ in range(60):
            keyboard.press("Tab")
            if focused() == text:
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        pytest.fail(f"Tab does not reach {text!r}")

    keyboard.press("Tab")
    assert focused() == "Skip to the content"
    tab_to("Jobs")
    tab_to("Choose none")
    tab_to("Row")
    keyboard.press("Enter")
    assert column(page, "Row") == ["DPO", "Ours", "SFT", "SFT"]
    tab_to("Choose Ours, sums, seed 0")
    before = page.locator("#chosen").inner_text()
    keyboard.press("Space")
    assert page.locator("#chosen").inner_text() != before
    page.get_by_role("link", name="Curves").focus()
    keyboard.press("Enter")
    page.get_by_role("heading", name="Curves").wait_for()
    assert focused() == "Curves"  # the heading, from which Tab goes on


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_is_wider_than_a_phone(opened, address, scheme):
    page = opened(address, viewport=PHONE, color_scheme=scheme)
    for name in [*VIEWS, "job-0"]:
        page.evaluate("name => { location.hash = name; }", name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name


def test_a_browser_that_cannot_unpack_says_so(browser, address):
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto(address)
        assert "It needs a browser of 2024 or later." in page.get_by_role("alert").inner_text()


def test_a_hundred_jobs_with_100_000_responses_open_in_under_3_seconds(opened, tmp_path):
    from rkd.reporting.page.page import write_page

    write_many(tmp_path / "jobs", jobs=100, responses=1000)
    path = write_page([tmp_path / "jobs"], tmp_path / "page")
    started = time.monotonic()
    page = opened(f"file://{path}")
    assert len(column(page, "Row")) == 100
    seconds = time.monotonic() - started
    print(f"{path.stat().st_size / 1e6:.1f} MB opened in {seconds:.2f} s")
    assert seconds < 3
    view(page, "questions")
    page.get_by_text("1–20 of 500 questions").wait_for()
