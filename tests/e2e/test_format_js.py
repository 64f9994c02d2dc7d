"""How the page writes numbers (speckd/html/format.js): the one formatter, which lessons, tables and pictures share."""

from collections.abc import Iterator
from typing import Any

import pytest

from speckd import html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def scripts(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.add_script_tag(content=html.script())
    yield page
    page.close()


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"number": 1.125, "kind": "nats"}, "1.13"),
        ({"number": 1.998, "kind": "nats"}, "2.00"),
        ({"number": 1.998, "kind": "nats", "unit": True}, "2.00 nats"),
        ({"number": 0.00012, "kind": "nats", "unit": True}, "1.2e−4 nats"),
        ({"number": "inf", "kind": "nats", "unit": True}, "∞ nats"),
        ({"number": None, "kind": "nats", "unit": True}, "–"),
        ({"number": 999.7, "kind": "nats"}, "1,000"),
        ({"number": -0.5, "kind": "nats"}, "−0.500"),
        ({"number": 0.977, "kind": "share"}, "98%"),
        ({"number": 0.05, "kind": "share"}, "5.0%"),
        ({"number": -0.05, "kind": "share"}, "−5.0%"),
        ({"number": -0.05, "kind": "share", "signed": True}, "−5.0%"),
        ({"number": 0.05, "kind": "share", "signed": True}, "+5.0%"),
        ({"number": 0.0001, "kind": "share"}, "<0.1%"),
        ({"number": -0.0001, "kind": "share"}, ">−0.1%"),
        ({"number": 0.9997, "kind": "probability"}, ">99.9%"),
        ({"number": 1, "kind": "probability"}, "100%"),
        ({"number": 0, "kind": "share", "signed": True}, "0%"),
        ({"number": 0, "kind": "nats", "signed": True}, "0"),
        ({"number": -0.0, "kind": "ratio", "signed": True}, "0"),
        ({"number": 0.2, "kind": "nats", "signed": True}, "+0.200"),
        ({"number": 0.01, "kind": "ratio"}, "0.01"),
        ({"number": 12345, "kind": "count"}, "12,345"),
        ({"number": 3, "kind": "count", "signed": True}, "+3"),
        ({"number": 0.345, "kind": "score"}, "0.345"),
        ({"number": 0.997, "kind": "share"}, "99.7%"),
        ({"number": 0.994, "kind": "share"}, "99%"),
        ({"number": 0.01, "kind": "points", "signed": True, "unit": True}, "+1.0 points"),
        ({"number": -0.35, "kind": "points"}, "−35"),
        ({"number": 0.00002, "kind": "points"}, "0.0020"),
        ({"number": 1.2, "kind": "points"}, "120"),
        ({"number": 1.5, "kind": "score"}, "1.50"),
        ({"number": 2.34, "kind": "seconds"}, "2.3 s"),
        ({"number": 2, "kind": "seconds"}, "2.0 s"),
        ({"number": 48.4, "kind": "seconds"}, "48 s"),
        ({"number": 130, "kind": "seconds"}, "2 min"),
    ],
)
def test_a_number_is_written_by_its_kind(scripts: Any, node: dict[str, Any], text: str) -> None:
    assert scripts.evaluate("node => SpecKD.formatNode(node)", node) == text


def test_no_kind_writes_a_hyphen_for_a_minus_or_a_sign_before_zero(scripts: Any) -> None:
    values = [-12345.6, -1.0, -0.3, -0.0004, -1e-9, -0.0, 0.0, 1e-9, 0.0004, 0.3, 1.0, 12345.6]
    kinds = ["share", "probability", "nats", "score", "ratio", "count", "seconds", "points", "times"]
    written = scripts.evaluate(
        "([values, kinds]) => kinds.flatMap((kind) => values.map((x) => SpecKD.format(x, kind, { signed: true })))",
        [values, kinds],
    )
    assert not [text for text in written if "-" in text]
    assert not [text for text in written if text.startswith(("+0%", "+0 ", "−0%", "−0 ")) or text in ("+0", "−0")]
