"""The report: one file that opens without a network and shows the verdict, every gate and every part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assets.report import write_report
from pipeline.errors import PromotionRefused
from resources.environments import Environment, Settings, create_environment
from tests.browser import dom
from tests.tiny import SIZES, Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")

PARTS = {
    "Gates", "Equity", "Rank IC", "Calibration", "Blocked entries and exits", "Selected stocks", "Exclusions", "Folds",
    "Lineage",
}  # fmt: skip
OUT_OF_REACH = [*SIZES["promotion.gates"], {"name": "net_excess", "bound": 99}]


@dataclass(frozen=True)
class Report:
    """A report and what it must say."""

    path: Path
    environment: Environment
    promoted: bool

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture(scope="module")
def promoted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = tmp_path_factory.mktemp("promoted") / "report.html"
    write_report(tiny.environment, path)
    return Report(path, tiny.environment, True)


@pytest.fixture(scope="module")
def refused(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("refused")
    runner = copy_of(tiny.eve, folder / "home", overrides={"promotion.gates": OUT_OF_REACH})
    (runner.environment.home / "champions").rename(folder / "champions")
    runner.judged("scorecard")
    runner.judged("candidate")
    with pytest.raises(PromotionRefused):
        runner.stages(["champion"])
    write_report(runner.environment, folder / "report.html")
    return Report(folder / "report.html", runner.environment, False)


@pytest.fixture(params=["promoted", "refused"])
def report(request: pytest.FixtureRequest) -> Report:
    return request.getfixturevalue(request.param)


class _Attributes(HTMLParser):
    """Collects every address that the page would load or link to, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]


def test_it_loads_nothing_from_anywhere(report: Report) -> None:
    """Pins a report that needs a network, a script or a file beside it."""
    page = _Attributes()
    page.feed(report.text)
    assert [a for a in page.addresses if not a.startswith(("#", "data:image/png;base64,"))] == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in report.text
    assert "@import" not in report.text


def test_every_part_is_there(report: Report) -> None:
    """Pins a part that silently went missing."""
    headings = set(re.findall(r"<h2>(.*?)</h2>", report.text))
    assert headings >= PARTS
    assert ("Live sessions" in headings) == report.promoted
    assert report.text.count("data:image/png;base64,") >= 7


def test_the_verdict_is_told_with_its_reasons(promoted: Report, refused: Report) -> None:
    """Pins a refusal that looks like a success, and one that does not say why."""
    champion = promoted.environment.champions(promoted.environment.study.name).current()
    assert champion is not None
    assert f'<div id=verdict class="verdict yes">Champion {champion["bundle"][:12]} serves' in promoted.text
    verdict = re.search(r'<div id=verdict class="verdict no">(.*?)</div>', refused.text)
    assert verdict is not None
    assert verdict[1].startswith("Promotion refused: net_excess: fail")


def test_a_home_without_any_result_still_has_a_report(tmp_path: Path) -> None:
    """Pins `foldgate report` failing with a traceback before anything ran."""
    environment = create_environment(tmp_path / "home", Settings(profile="tiny"), tmp_path / "no_template")
    write_report(environment, tmp_path / "report.html")
    assert "Nothing was promoted yet." in (tmp_path / "report.html").read_text()


def test_a_browser_shows_the_verdict_and_every_gate(report: Report, tmp_path: Path) -> None:
    """Pins markup that only a parser of ours understands."""
    shown = dom(report.path.as_uri(), tmp_path / "profile")
    rows = dict(re.findall(r'<tr><td>(\w+)</td><td class="(pass|fail|missing|not_applicable)">', shown))
    gates = {gate.name for gate in report.environment.study.promotion.gates}
    assert set(rows) == gates
    assert {gate for gate, status in rows.items() if status == "fail"} == (set() if report.promoted else {"net_excess"})
    assert ("verdict yes" in shown) == report.promoted
    assert shown.count("<img") == report.text.count("<img")
    assert shown.rstrip().endswith("</html>")
