"""The page as one file: whole, alive without anything else, and deaf to what stands in its text."""

import json
import re
from pathlib import Path

import pytest

import speckd
from speckd import html
from tests.app import synthetic


def data_in(page: str, name: str) -> object:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_the_page_holds_the_trace_and_the_knobs() -> None:
    trace = synthetic.trace(12)
    page = html.to_html(trace, knobs={"gate": "speck", "k": 3}, pin=4)
    assert data_in(page, "trace") == trace
    assert data_in(page, "options") == {"knobs": {"gate": "speck", "k": 3}, "pin": 4}


def test_a_trace_object_keeps_the_draws_that_are_shown(tmp_path: Path) -> None:
    trace = speckd.Trace.from_dict(synthetic.trace(12))
    page = html.to_html(trace, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    kept = data_in(page, "trace")
    assert isinstance(kept, dict) and len(kept["draws"]["coin"][0]) == html.N_DRAWS


def test_the_page_names_no_other_file_or_host() -> None:
    page = html.to_html(synthetic.trace(3))
    links = re.findall(r"(?:src|href)\s*=\s*['\"][^'\"]+|https?://[^\s'\"`)]+|@import|url\([^)]*\)", page)
    assert [link for link in links if "w3.org/2000/svg" not in link] == []


@pytest.mark.parametrize(
    "text", [*synthetic.HOSTILE, "</script><script>alert(1)</script>", "<!--<script>", "\u2028", "\ud83e"]
)
def test_hostile_text_stays_data(text: str) -> None:
    trace = synthetic.trace(3, tokens=[text])
    trace["prompt"] = trace["config"]["prompt"] = text
    page = html.to_html(trace)
    plain = html.to_html(synthetic.trace(3))
    assert page.count("<script") == plain.count("<script") and page.count("</script") == plain.count("</script")
    assert "<img" not in page
    kept = data_in(page, "trace")
    assert isinstance(kept, dict) and kept["prompt"] == text.encode("utf-8", "replace").decode()


def test_infinity_is_written_as_json_knows_it() -> None:
    trace = synthetic.trace(3)
    trace["divergence"]["forward_kl"][1] = float("inf")
    with pytest.raises(ValueError):
        html.to_html(trace)  # Trace.to_dict writes "inf"; a bare infinity would break the page without a word
