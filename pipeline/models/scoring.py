"""The serving form of a member, for research and live alike: files in, raw scores out. No fitting here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.models.examples import Head
from pipeline.models.family import Predict, server
from pipeline.models.inputs import Inputs, build_inputs, inputs_of
from pipeline.models.normaliser import Normaliser
from pipeline.models.prepared import Prepared
from pipeline.models.spec import Layout

MEMBER_FILE = "member.json"
NORMALISER_FILE = "normaliser.json"
FORMAT = 2


@dataclass(frozen=True)
class Card:
    """What `member.json` says: which family reads the other files, and how they are served."""

    name: str
    family: str
    heads: tuple[Head, ...]
    layout: Layout
    serving_batch: int
    format: int = FORMAT

    def to_json(self) -> bytes:
        return canonical_json(asdict(self) | {"layout": self.layout.model_dump(mode="json")}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Card:
        raw = json.loads(data)
        if raw.get("format") != FORMAT:
            raise BadInput(f"a member has format {FORMAT}", raw.get("format"), "refit it with this version")
        heads = tuple(Head(**head) for head in raw.pop("heads"))
        return cls(**raw | {"heads": heads, "layout": Layout.model_validate(raw["layout"])})


@dataclass(frozen=True)
class Scorer:
    """Scores of one member.

    `<head>_head` is a probability in (0, 1) for probability heads and of free scale for rank heads; a head
    that had nothing to learn carries its constant.
    """

    card: Card
    normaliser: Normaliser
    predict: Predict

    @property
    def window(self) -> int:
        """Sessions of features a row needs, its own included."""
        return self.card.layout.sessions

    @property
    def schema(self) -> tuple[str, ...]:
        """Feature columns, in order."""
        return self.normaliser.schema

    def inputs(
        self,
        features: pl.DataFrame,
        standing: pl.DataFrame,
        sessions: Sequence[date],
        paths: pl.DataFrame | None = None,
    ) -> Inputs:
        """The tensors that `score` reads; their `hashes` are what parity compares."""
        return build_inputs(features, standing, self.normaliser, sessions, self.card.layout, paths)

    def prepared_inputs(self, prepared: Prepared, sessions: Sequence[date] | None = None) -> Inputs:
        """The same tensors from a store that was prepared once for many splits."""
        return inputs_of(prepared, self.normaliser, self.card.layout, sessions)

    def score(
        self,
        features: pl.DataFrame,
        standing: pl.DataFrame,
        sessions: Sequence[date],
        paths: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Raw scores of the eligible rows of `sessions`: `session`, `instrument`, `<head>_head` Float32.

        Parameters
        ----------
        features, standing, paths : DataFrame
            As for `build_inputs`; hold the `window - 1` sessions before the first of `sessions` too.
        """
        return self.score_inputs(self.inputs(features, standing, sessions, paths))

    def score_inputs(self, inputs: Inputs) -> pl.DataFrame:
        """As `score`, of inputs already built."""
        return with_heads(inputs.rows, self.card.heads, self.predict(inputs))


def with_heads(rows: pl.DataFrame, heads: Sequence[Head], learned: NDArray[np.float32]) -> pl.DataFrame:
    """`rows` with a `<head>_head` column per head, constants filled in.

    Parameters
    ----------
    learned : float32 [n, learned heads]

    Raises
    ------
    SchemaError
        Another number of values a row than there are learned heads.
    """
    names = [head.name for head in heads if head.learned]
    if learned.shape[1] != len(names):
        raise SchemaError("a member gives a value per learned head", f"{learned.shape[1]} for {names}", "refit it")
    columns = iter(np.ascontiguousarray(learned.T))
    return rows.with_columns(
        pl.Series(f"{head.name}_head", next(columns), pl.Float32)
        if head.learned
        else pl.lit(head.baseline, pl.Float32).alias(f"{head.name}_head")
        for head in heads
    )


def load_member(files: Mapping[str, bytes]) -> Scorer:
    """A scorer from a member's files. Loading runs no code from them: JSON, ONNX and LightGBM text only.

    Raises
    ------
    BadInput
        A file is absent, or the family or format is unknown.
    """
    absent = [name for name in (MEMBER_FILE, NORMALISER_FILE) if name not in files]
    if absent:
        raise BadInput("a member is whole", f"absent: {absent}", "fetch the artifact again")
    card = Card.from_json(files[MEMBER_FILE])
    learned = tuple(head for head in card.heads if head.learned)
    chosen = server(card.family)
    predict = chosen.load(files, learned, card.serving_batch) if learned else _nothing
    return Scorer(card, Normaliser.from_json(files[NORMALISER_FILE]), predict)


def _nothing(inputs: Inputs) -> NDArray[np.float32]:
    return np.empty((len(inputs), 0), np.float32)
