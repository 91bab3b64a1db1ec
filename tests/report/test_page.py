"""The page: what it says, that it is whole, and that it works in a browser."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from tests.report.examples import AREA, CURVE, change, failed, relearned, run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
EMPTY = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, addresses and text of a page; an element that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.said = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def page(folder: Path) -> str:
    out = folder.parent / "page.html"
    assert main([str(folder), "--html", str(out)]) == 0
    return out.read_text()


def test_a_page_has_everything_in_it_and_says_why_each_run_has_its_verdict(tmp_path: Path) -> None:
    relearned(run(tmp_path / "runs" / "1", "geniu", 1), CURVE, AREA)
    for seed in (2, 3):
        run(tmp_path / "runs" / f"{seed}", "geniu", seed)
    failed(tmp_path / "runs" / "c", "scrub", 1, "no memory left")
    text = page(tmp_path / "runs")
    found = Page(text)
    for sentence in (
        "4 runs, 1 of them failed, in 1 setting.",
        "git revision of the runs: abcdef012345.",
        "geniu, seed 2: forgotten",
        "because geniu",
        "head.repair inside nulls 0.5000 0.1250 0.2500 1.0000 0.4286",
        "oracles of seeds 1000, 1001, 1002, 1003, 1004; null runs: 3; attacks without power:"
        " features; verdict of the original: retained",
        "scrub, seed 1, failed: no memory left",
        "scrub, seed 1: failed",
        "geniu (best)",
        "not run",
        "The rule for (best)",
        "No figure of proxies: the training run",
    ):
        assert sentence in " ".join(found.said.split()), sentence
    assert re.findall(r'<tr class="(\w*)">', text)[:6] == [*["reference"] * 4, "best", ""]
    pictures = [address for address in found.addresses if not address.startswith("#")]
    assert len(pictures) == 4
    for address in pictures:
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not {"link", "iframe", "object"} & {*found.tags}
    assert not re.search(r"https?://|@import|url\(", text)


NASTY = "<script>document.title = 'taken'</script>\"' onload=x &amp; {{ title }}"


def test_nothing_in_a_run_is_taken_for_html(tmp_path: Path) -> None:
    change(
        run(tmp_path / "runs" / "a<b>", NASTY, verdict=NASTY),
        run__trained__data__name=NASTY,
        run__trained__imbalance={"_target_": "x.step", NASTY: NASTY},
        run__revision=NASTY,
        verdict_reason=NASTY,
        controls={"original": NASTY},
        oracle_verdicts={NASTY: 5},
        findings=[{"name": NASTY, "question": NASTY, "against": NASTY, "value": NASTY}],
        attacks=[{"family": NASTY, "has_power": False}],
    )
    failed(tmp_path / "runs" / "c", "scrub", 1, NASTY)
    text = page(tmp_path / "runs")
    found = Page(text)
    assert found.tags.count("script") == 1
    assert "onload=x" not in text.replace("onload=x &amp;amp; {{ title }}", "")
    assert found.said.count(NASTY) >= 8


# ---- in a browser ----------------------------------------------------------------------------

SPY = """<script>
window.wrong = [];
window.addEventListener("error", (event) => window.wrong.push(event.message));
window.addEventListener("securitypolicyviolation", (event) => window.wrong.push(event.blockedURI));
</script>"""
CLICKS = """<script>
const table = document.querySelector("table");
const seen = [];
const look = (head) => seen.push([
  head.getAttribute("aria-sort"),
  document.querySelectorAll("table:first-of-type [aria-sort]").length,
  [...table.tBodies[0].rows].map((row) => row.cells[0].textContent),
]);
for (const name of ["A_r", "A_r", "method"]) {
  const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent === name);
  head.querySelector("button").focus();
  document.activeElement.click();
  look(head);
}
const wide = document.documentElement.scrollWidth > window.innerWidth;
document.body.textContent = "";
const out = document.createElement("pre");
out.textContent = JSON.stringify({ seen, wrong: window.wrong, wide });
document.body.append(out);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")
def test_a_click_on_a_head_sorts_in_a_browser(tmp_path: Path) -> None:
    for method, retain in (("b", 0.9), ("a", 1.0), ("c", 0.5)):
        relearned(run(tmp_path / "runs" / method, method, retain=retain), CURVE, AREA)
    text = page(tmp_path / "runs")
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("<head>", f"<head>{SPY}").replace("</body>", f"{CLICKS}</body>"))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    said = json.loads(found[1])
    assert said["wrong"] == []
    assert not said["wide"]  # tables scroll, the page does not
    up, down, names = said["seen"]
    last = ["logit_mask", "random_init"]  # not run, so no number
    # the oracles have 0.875, and so has the original of this seed
    assert up == ["ascending", 1, ["c", "oracles (5)", "none (before)", "b", "a", *last]]
    assert down == ["descending", 1, ["a", "b", "oracles (5)", "none (before)", "c", *last]]
    assert names[:2] == ["ascending", 1]
    assert names[2][:3] == ["a", "b", "c"]
