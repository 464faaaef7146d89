"""The pages in a real browser, on a narrow window: only tables are wider, in their own frame."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from fake_grid import FakeGrid

from medstill.reporting.gridpage import render_grid
from medstill.reporting.gridreading import read_grid
from medstill.reporting.page import render
from medstill.reporting.reading import read_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
LONG = "liver_and_" * 9

# The page gets no script, which its policy forbids: a page around it measures it in a frame.
AROUND = """<!doctype html><body>
<iframe id="frame" style="border: 0; height: 2000px; width: WIDTHpx" srcdoc="PAGE"></iframe>
<pre id="found"></pre><script>
onload = () => {
  const page = frame.contentDocument, shown = frame.contentWindow;
  page.querySelectorAll("details").forEach(one => { one.open = true; });
  const tables = [...page.querySelectorAll("table")].map(table => {
    const around = table.closest(".scroll"), style = shown.getComputedStyle(around);
    return {wide: around.scrollWidth > around.clientWidth, scrolls: style.overflowX,
            tab: around.tabIndex, label: around.ariaLabel, hint: style.backgroundAttachment};
  });
  found.textContent = JSON.stringify({page: page.documentElement.scrollWidth, tables});
};
</script>"""

needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {NAMES} is installed")


def measured(text, width, folder):
    around = AROUND.replace("WIDTH", str(width)).replace("PAGE", html.escape(text))
    (folder / "around.html").write_text(around, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1200", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "around.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(html.unescape(re.search(r'id="found">(.*?)</pre>', done.stdout)[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory, finished_run):
    folder = tmp_path_factory.mktemp("grid")
    classes, students = (LONG, "left kidney"), ("compact",)
    FakeGrid(folder, classes=classes, students=students, fractions=("0.25",), patients=3).build()
    return {"run": render(read_run(finished_run.folder)), "grid": render_grid(read_grid(folder))}


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["run", "grid"])
def test_no_page_is_wider_than_its_window(pages, kind, width, tmp_path) -> None:
    found = measured(pages[kind], width, tmp_path)
    assert found["page"] <= width
    wide = [table for table in found["tables"] if table["wide"]]
    assert wide or width > 390
    for table in found["tables"]:
        assert (table["scrolls"], table["tab"]) == ("auto", 0)
        assert table["label"]
        # Shades at the edges tell that there is more; covers that move with the table hide them.
        assert table["hint"] == "local, local, scroll, scroll"


@needs_browser
def test_a_page_that_is_too_wide_is_seen(tmp_path) -> None:
    text = '<body style="margin: 0"><div style="width: 500px">wide</div></body>'
    assert measured(text, 390, tmp_path)["page"] == 500
