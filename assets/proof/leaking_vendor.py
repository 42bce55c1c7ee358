"""A simulated vendor one of whose columns knows the future by a known amount: what a control without signal must see.

The leak comes in where real ones do, in the vendor's answers. Nothing behind the client knows of it.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import polars as pl

from pipeline.backtests.ic import rank_ic
from pipeline.errors import BadInput
from resources.environments import Environment
from resources.simulated import SIMULATED_TOKEN, SimulatedVendor
from resources.source import Source
from resources.tushare import TushareClient, TushareSource

# A column that one feature reads, a percentile among the day's names; nothing else depends on it.
TABLE, COLUMN = "daily_basic", "dv_ttm"
SEED = 5


def leaking_source(environment: Environment, size: float) -> Source:
    """The environment's own source, with the leak between its vendor and its client."""
    if environment.settings.source != "simulated" or environment.study.market.vendor != "tushare":
        raise BadInput("the future is known of a simulated market of stocks alone", environment.settings.source)
    vendor = _Leaking(SimulatedVendor(environment.simulated, environment.clock), leaked(environment, size))
    return TushareSource(TushareClient(SIMULATED_TOKEN, transport=vendor, clock=environment.clock))


def leaked(environment: Environment, size: float) -> pl.DataFrame:
    """session, instrument, score: size x (rank of the return that follows) + sqrt(1 - size^2) x noise, both uniform."""
    oracle: pl.DataFrame = environment.simulated.oracle
    truth = oracle.drop_nulls("ret").select("session", "instrument", "ret")
    rank = ((pl.col("ret").rank("ordinal") - 0.5) / pl.len() - 0.5).over("session")
    noise = pl.Series("noise", np.random.default_rng(SEED).random(len(truth)) - 0.5)
    mixed = size * rank + (1.0 - size**2) ** 0.5 * pl.col("noise")
    return truth.with_columns(noise).select("session", "instrument", "ret", score=mixed)


def leaked_rank_ic(environment: Environment, size: float) -> float:
    """What the column itself has, over every session that the vendor tells of."""
    rows = leaked(environment, size)
    return float(rank_ic(rows.drop("ret"), rows.drop("score"))["rank_ic"].mean() or 0.0)  # type: ignore[arg-type]


class _Leaking(httpx.BaseTransport):
    """The vendor's answers with one column replaced; a row of which nobody knows the future keeps a middling value."""

    def __init__(self, vendor: httpx.BaseTransport, rows: pl.DataFrame) -> None:
        self._vendor = vendor
        keys = zip(rows["instrument"], rows["session"].dt.strftime("%Y%m%d"), strict=True)
        self._values = dict(zip(keys, (rows["score"] + 2.0).round(6), strict=True))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._vendor.handle_request(request)
        if json.loads(request.read()).get("api_name") != TABLE:
            return answer
        body: dict[str, Any] = json.loads(answer.read())
        fields: list[str] = body["data"]["fields"]
        code, day, column = fields.index("ts_code"), fields.index("trade_date"), fields.index(COLUMN)
        for row in body["data"]["items"]:
            row[column] = self._values.get((row[code], row[day]), 2.0)
        return httpx.Response(200, headers={"content-type": "application/json"}, content=json.dumps(body).encode())
