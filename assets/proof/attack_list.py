"""Ways to a champion that its gates did not allow: each is a small change to a copy of a judged home."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.attack_stand import attempt, bundle_folder, chosen, given, overwrite, rewrite
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.gates.chain import GENESIS
from pipeline.gates.ledger import Trial
from pipeline.gates.spec import GateSpec
from pipeline.serving.bundle import POLICY, load_bundle, write_bundle
from pipeline.stages.candidates import BUNDLE_FILE
from pipeline.study import Study
from resources.environments import Environment

Apply = Callable[[Environment], None]
STAGE_OF = {"evaluation": "scorecard", "candidate": "candidate"}
ANOTHER = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Attack:
    """One change.

    Parameters
    ----------
    family : str
        Attacks of one family are counted together.
    name : str
    apply : callable
        Changes the copy.
    serves : bool
        The attempt is to serve, not to promote: the pointer itself was changed.
    """

    family: str
    name: str
    apply: Apply
    serves: bool = False


def verdict_attacks(study: Study) -> Iterator[Attack]:
    """Every gate of the study in every state that is not green for this hash."""
    for gate in study.promotion.gates:
        row = pl.col("gate") == gate.name
        changes: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
            "red": partial(_set, row, status=pl.lit("fail"), value=pl.lit(0.0)),
            "missing, by its own word": partial(_set, row, status=pl.lit("missing"), value=pl.lit(None, pl.Float64)),
            "missing row": partial(_without, row),
            "for another hash": partial(_set, row, evaluation_hash=pl.lit(ANOTHER)),
            "for another bound": partial(_set, row, bound=pl.col("bound") + 1.0),
            "judged twice": partial(_twice, row),
            "an unknown status": partial(_set, row, status=pl.lit("green")),
        }
        if not gate.optional:
            changes["not applicable"] = partial(_set, row, status=pl.lit("not_applicable"))
        for state, change in changes.items():
            yield Attack(f"gate {state}", gate.name, partial(_verdicts, gate.applies_to, change))
        yield Attack("gate red, its stored file edited to pass", gate.name, partial(_whitewash, gate))


def _set(row: pl.Expr, table: pl.DataFrame, **values: pl.Expr) -> pl.DataFrame:
    return table.with_columns(pl.when(row).then(value).otherwise(pl.col(name)).alias(name)
                              for name, value in values.items())  # fmt: skip


def _without(row: pl.Expr, table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(~row)


def _twice(row: pl.Expr, table: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([table, table.filter(row)])


def _verdicts(side: str, change: Callable[[pl.DataFrame], pl.DataFrame], environment: Environment) -> None:
    rewrite(environment, STAGE_OF[side], tables={"verdicts": change})


def _whitewash(gate: GateSpec, environment: Environment) -> None:
    """The verdict is red, and then its file is edited in place to say what it said before."""
    stage, name = STAGE_OF[gate.applies_to], environment.study.name
    green = environment.artifacts.table(name, stage, "verdicts")
    _verdicts(gate.applies_to, partial(_set, pl.col("gate") == gate.name, status=pl.lit("fail")), environment)
    version = environment.artifacts.current(name, stage)[""]
    path = environment.artifacts.root / version.tables["verdicts"]["file"]
    path.unlink()
    green.write_parquet(path)


def side_attacks(study: Study) -> Iterator[Attack]:
    """Whole judgements absent, old, dated ahead, or of something else."""
    age = timedelta(days=study.promotion.max_age_days + 1)
    for side, stage in STAGE_OF.items():
        yield Attack("a judgement is forgotten", side, partial(_forget, stage))
        yield Attack("stale: too old", side, partial(_dated, stage, -age))
        yield Attack("stale: dated ahead", side, partial(_dated, stage, timedelta(days=1)))
    yield Attack("stale: too old", "both, the clock moved on", partial(_later, age))
    yield Attack("stale: a pinned session rewritten", "features", _rewrite_features)
    yield Attack("stale: the ledger has grown", "one more trial", _one_more_trial)
    yield Attack("another evaluation", "predictions made anew", _rewrite_predictions)
    yield Attack("another evaluation", "candidate says another", partial(_candidate_says, "evaluation", ANOTHER))
    yield Attack("another bundle", "one that does not exist", partial(_candidate_says, "bundle", ANOTHER))
    yield Attack("another bundle", "a whole one that nobody judged", _forged_bundle)
    yield Attack("another bundle", "its parts' hashes forged too", _forged_weights)
    gates = [gate.model_dump(mode="json") for gate in study.promotion.gates]
    out_of_reach = [{**gates[0], "bound": gates[0]["bound"] + 2.0}, *gates[1:]]
    yield Attack("the study asks for more", "a stricter bound", partial(_study_says, "promotion.gates", out_of_reach))
    one_side = [gate for gate in gates if gate["applies_to"] == "evaluation"]
    for name, fewer in (("no gate of the candidate", one_side), ("no gate at all", [])):
        yield Attack("the study asks for less", name, partial(_study_says, "promotion.gates", fewer))


def _forget(stage: str, environment: Environment) -> None:
    """As if the stage had never run: its entries speak of another one."""
    for entry in (environment.home / "artifacts" / "log").iterdir():
        body = json.loads(entry.read_bytes())
        if body.get("version", {}).get("stage") == stage:
            body["version"]["stage"] = "elsewhere"
            overwrite(entry, json.dumps(body).encode())


def _dated(stage: str, shift: timedelta, environment: Environment) -> None:
    def moved(metadata: dict[str, Any]) -> dict[str, Any]:
        return metadata | {"judged_at": (environment.clock.now() + shift).isoformat()}

    rewrite(environment, stage, metadata=moved)


def _later(age: timedelta, environment: Environment) -> None:
    environment.move_clock(environment.clock.now() + age)


def _rewrite_features(environment: Environment) -> None:
    partition = min(environment.artifacts.current(environment.study.name, "features"))
    column = environment.artifacts.table(environment.study.name, "features", "features").columns[-1]
    rewrite(environment, "features", partition=partition,
            tables={"features": lambda t: t.with_columns(pl.lit(0.5, pl.Float32).alias(column))})  # fmt: skip


def _rewrite_predictions(environment: Environment) -> None:
    rewrite(environment, "predictions",
            tables={"predictions": lambda t: t.with_columns(pl.col("score") + 1.0)})  # fmt: skip


def _one_more_trial(environment: Environment) -> None:
    day = environment.clock.now().date()
    days = [day - timedelta(days=n) for n in range(5)]
    environment.ledger(environment.study.name).append(
        [Trial("another configuration", "another", "another", "paths:another", days, [0.1, 0.2, 0.0, 0.3, 0.1])]
    )


def _candidate_says(field: str, value: str, environment: Environment) -> None:
    rewrite(environment, "candidate", files={
        BUNDLE_FILE: lambda data: canonical_json(json.loads(data) | {field: value}).encode()})  # fmt: skip


def _forged_bundle(environment: Environment) -> None:
    """Another policy in a bundle that is consistent in itself."""
    _point_at_forged(environment, lambda files, manifest: files.update({POLICY: files[POLICY] + b" "}))


def _forged_weights(environment: Environment) -> None:
    """Another model, and a manifest that says its training recorded just that."""

    def forge(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        part, recorded = next(iter(manifest["weights"].items()))
        file = next(name for name in recorded if not name.endswith(".json"))
        files[f"members/{part}/{file}"] += b"\n"
        recorded[file] = hash_bytes(files[f"members/{part}/{file}"])

    _point_at_forged(environment, forge)


def _point_at_forged(environment: Environment, forge: Callable[[dict[str, bytes], dict[str, Any]], None]) -> None:
    root = environment.bundles(environment.study.name)
    bundle = load_bundle(root, chosen(environment))
    files, manifest = dict(bundle.files), json.loads(canonical_json(given(bundle)))
    forge(files, manifest)
    _candidate_says("bundle", write_bundle(root, files, manifest).hash, environment)


def _study_says(field: str, value: Any, environment: Environment) -> None:
    path = environment.home / "settings.json"
    settings = json.loads(path.read_text())
    settings["overrides"][field] = value
    overwrite(path, json.dumps(settings).encode())


def bundle_attacks(folder: Path, regions: int) -> Iterator[Attack]:
    """Every file of the bundle, in every region of its bytes, and the folder around them."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file, size = path.relative_to(folder).as_posix(), path.stat().st_size
        for i in range(regions):
            at = min(size - 1, (2 * i + 1) * size // (2 * regions))
            yield Attack("a bit of the bundle flipped", f"{file} at {at}", partial(_edit, file, partial(_flip, at)))
        edits = {"cut": lambda data: data[:-1], "emptied": lambda data: b"", "appended to": lambda data: data + b" "}
        for what, edit in edits.items():
            yield Attack(f"a file of the bundle {what}", file, partial(_edit, file, edit))
        yield Attack("a file of the bundle removed", file, partial(_remove, file))
        yield Attack("a file of the bundle made a link", file, partial(_link, file))
    yield Attack("the bundle's folder changed", "a file more", partial(_add, "members/more.json"))
    yield Attack("the bundle's folder changed", "a pickle more", partial(_add, "members/model.pkl"))
    yield Attack("the bundle's folder changed", "absent", lambda environment: bundle_folder(environment).rename(
        bundle_folder(environment).with_name("elsewhere")) and None)  # fmt: skip


def _flip(at: int, data: bytes) -> bytes:
    at %= max(len(data), 1)  # another attack may have cut the file
    return b"x" if not data else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _edit(file: str, edit: Callable[[bytes], bytes], environment: Environment) -> None:
    path = bundle_folder(environment) / file
    overwrite(path, edit(path.read_bytes()))


def _remove(file: str, environment: Environment) -> None:
    (bundle_folder(environment) / file).unlink()


def _link(file: str, environment: Environment) -> None:
    """The same bytes, but elsewhere: they can change after they were verified."""
    path, away = bundle_folder(environment) / file, environment.home / "away"
    path.rename(away)
    path.symlink_to(away)


def _add(file: str, environment: Environment) -> None:
    (bundle_folder(environment) / file).write_bytes(b"{}")


def ledger_attacks(rows: int) -> Iterator[Attack]:
    """Every row of the ledger edited, removed, or the tail cut from it on; the whole ledger gone."""
    for number in range(1, rows + 1):
        yield Attack("the ledger edited", f"row {number}", partial(_ledger_edit, number))
        yield Attack("the ledger cut", f"from row {number} on", partial(_ledger_cut, number))
        if number < rows:
            yield Attack("the ledger cut", f"row {number} alone", lambda environment, n=number: _row(
                environment, "ledger", n).unlink())  # fmt: skip


    yield Attack("the ledger cut", "a trial, after it was the reason of a refusal", _trial_taken_back)


def _trial_taken_back(environment: Environment) -> None:
    """One more trial is recorded and promotion refused; without its row the ledger is what the candidate anchored."""
    _one_more_trial(environment)
    assert attempt(environment).recorded
    max((environment.home / "ledger" / environment.study.name).glob("0*.json")).unlink()


def _row(environment: Environment, chain: str, number: int) -> Path:
    return environment.home / chain / environment.study.name / f"{number:06d}.json"


def _ledger_edit(number: int, environment: Environment) -> None:
    path = _row(environment, "ledger", number)
    overwrite(path, path.read_bytes().replace(b'"sharpe":', b'"sharpe":1', 1))


def _ledger_cut(number: int, environment: Environment) -> None:
    for path in (environment.home / "ledger" / environment.study.name).glob("0*.json"):
        if int(path.stem) >= number:
            path.unlink()


def pointer_attacks(regions: int, rows: int) -> Iterator[Attack]:
    """The champion's records changed so that the candidate serves without promotion; then someone serves."""
    for number in range(1, rows + 1):
        for i in range(regions):
            yield Attack("a bit of the pointer flipped", f"row {number}, region {i}",
                         partial(_pointer_flip, number, (2 * i + 1) / (2 * regions)), serves=True)  # fmt: skip
    yield Attack("the pointer edited", "names the candidate", partial(_pointer_names, False), serves=True)
    yield Attack("the pointer edited", "names it, hashed again", partial(_pointer_names, True), serves=True)
    yield Attack("the pointer edited", "a row more, chained rightly", _pointer_row, serves=True)
    yield Attack("the pointer edited", "a row more, not chained", partial(_pointer_row, before=GENESIS), serves=True)


def _pointer_flip(number: int, share: float, environment: Environment) -> None:
    path = _row(environment, "champions", number)
    data = path.read_bytes().rstrip(b"\n")
    overwrite(path, _flip(int(share * len(data)), data) + b"\n")


def _pointer_names(rehashed: bool, environment: Environment) -> None:
    path = _row(environment, "champions", 1)
    row = json.loads(path.read_bytes())
    row["body"]["bundle"] = chosen(environment)
    overwrite(path, canonical_json(_hashed(row) if rehashed else row).encode())


def _pointer_row(environment: Environment, before: str = "") -> None:
    rows = environment.champions(environment.study.name).chain.rows()
    body = rows[-1]["body"] | {"bundle": chosen(environment), "kind": "promoted", "reasons": []}
    row = {"number": len(rows) + 1, "before": before or rows[-1]["hash"], "body": body}
    overwrite(_row(environment, "champions", len(rows) + 1), canonical_json(_hashed(row)).encode())


def _hashed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the hash that a chain of such rows has; the chain holds no secret."""
    kept = {name: row[name] for name in ("number", "before", "body")}
    return kept | {"hash": hash_bytes(canonical_json(kept).encode())}
