"""The folder of the page without a server: small, whole, the same wherever it lies. Plotly is the package's own."""

import json
import re
from pathlib import Path

import pytest

from app.panels import PAGES
from app.site.build import MARK, CannotBuild, build, first_load
from app.site.plotly import WHOLE

FIRST_LOAD, ALL = 1_000_000, 30_000_000  # bytes


@pytest.mark.slow
def test_the_site_is_small_and_whole_and_knows_no_address(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    build(folder, space="owner/name", plotly_source=WHOLE)
    assert first_load(folder) < FIRST_LOAD
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < ALL
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?:https?:)?/', index)
    told = json.loads(re.search(r'id="site">(.*?)</script>', index)[1])  # type: ignore[index]
    assert {tab["part"] for tab in told["tabs"]} == set(PAGES), "every tab of the page is there"
    for tab in told["tabs"]:
        data = json.loads((folder / tab["file"]).read_text(encoding="utf-8"))
        assert data["answers"], tab["name"]
        for files in data["answers"].values():
            assert all((folder / name).is_file() for name in files.values())


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CannotBuild, match="holds something else"):
        build(tmp_path, plotly_source=WHOLE)
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / MARK).exists()
