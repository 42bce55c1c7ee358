"""Causality certificates hold on small homes, and each kind of leak breaks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.proof import causal_features, causal_predictions
from assets.proof.causality import SIZES, candidate_bundle, finding, run
from assets.proof.contract import BROKEN, HELD
from pipeline.diagnostics.finding import Finding
from pipeline.features.history import History
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature
from pipeline.features.plan import FAMILIES
from pipeline.features.spec import Family, Feature
from pipeline.studies import STUDIES
from resources.environments import Environment

pytestmark = pytest.mark.xdist_group("proof_causality")


def silent(text: str, done: float) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("causality")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, silent)


def test_every_registered_column_is_certified(found: Finding) -> None:
    """Pins a feature that moves with what it must not see, and a registered family that no certificate covers."""
    assert (found.status, found.score) == (HELD, 0.0)
    families, columns = found.tables["certificates"], found.tables["columns"]
    assert {*FAMILIES, "paths", "position_state", "raw scores", "calibrated scores", "decisions"} <= {
        *families["family"]
    }
    named = {name for study in STUDIES.values() for name in study.features}
    assert named <= {*families["family"]}
    assert families["rows"].min() > 500  # type: ignore[operator]
    assert columns["future cuts"].min() >= 4  # type: ignore[operator]
    assert columns.filter(pl.col("family") == "alpha158")["look-back measured"].max() == 61


def test_the_full_certificate_cuts_at_200_decisions() -> None:
    """Pins a published certificate that looks at a handful of sessions."""
    full = SIZES["full"]
    assert full.cuts == {"session": None, "minute": 200}
    assert full.homes["session"].market["sessions"] - 61 >= 200
    assert full.homes["session"].members is full.homes["minute"].members is None


def tomorrow(history: History) -> np.ndarray:
    return history.take(np.roll(history.values["close"], -1, axis=1)).astype(np.float32)[None]


def since_ever(history: History) -> np.ndarray:
    close = np.nan_to_num(history.values["close"])
    return history.take(np.maximum.accumulate(close, axis=1)).astype(np.float32)[None]


@pytest.mark.parametrize("leak", [tomorrow, since_ever])
def test_a_leaking_family_of_sessions_breaks_it(found: Finding, folder: Path, monkeypatch, leak) -> None:
    """Pins a certificate that cannot fail: tomorrow's close, and a maximum over all of history."""
    planted = Feature("planted", "planted", ("close",), 5, 0, "instrument", "CNY", "broken on purpose")
    monkeypatch.setattr(causal_features, "FAMILIES", {"planted": Family("planted", (planted,), leak)})
    inputs = causal_features.stored_sessions(Environment(folder / "ashare_daily"))
    broken = finding(causal_features.certify_sessions(inputs, 3, 1, silent)[:1])
    assert broken.status == BROKEN
    assert broken.score > 0
    assert "planted" in broken.text


def test_a_leaking_family_of_minutes_breaks_it(found: Finding, folder: Path, monkeypatch) -> None:
    """Pins minutes that nobody judges: the next bar's close."""
    planted = MinuteFeature("ret_1m_bps", "planted", "x", "bps", ("bars",), 1, 2, "x", "x", "never")
    family = MinuteFamily("planted", (planted,), lambda history: [])
    monkeypatch.setattr(causal_features, "MINUTE_FAMILIES", (family,))
    honest = causal_features.minute_laws.MinuteSubject.__dataclass_fields__["calculate"].default

    def leaking(inputs, names):
        values = honest(inputs, ["ret_1m_bps"])
        return values.with_columns(pl.col("ret_1m_bps").shift(-1).over("instrument"))

    def subject(inputs, cuts, compare=None):
        return plain(inputs, cuts, ("ret_1m_bps",), leaking, **({"compare": compare} if compare else {}))

    plain = causal_features.minute_laws.MinuteSubject
    monkeypatch.setattr(causal_features.minute_laws, "MinuteSubject", subject)
    monkeypatch.setattr(causal_features, "_certify_states", lambda *_: None)
    certified = causal_features.certify_minutes(
        causal_features.stored_minutes(Environment(folder / "perp_minute")), 3, 1, silent
    )
    assert finding(certified[:1]).status == BROKEN


def test_scores_that_depend_on_their_batch_break_it(found: Finding, folder: Path, monkeypatch) -> None:
    """Pins certificates of features alone: a model that is fed the distance from its batch's mean."""
    environment = Environment(folder / "ashare_daily")
    honest = causal_predictions.compute

    def centred(*arguments):
        values = honest(*arguments)
        return values.with_columns((pl.col("return_5") - pl.col("return_5").mean()).abs())

    monkeypatch.setattr(causal_predictions, "compute", centred)
    certified = causal_predictions.certify_session_predictions(
        environment, candidate_bundle(environment), 2, 1, silent
    )
    broken = finding([certified])
    assert broken.status == BROKEN
    assert broken.tables["columns"].filter(pl.col("differences") > 0)["family"].n_unique() == 3
