"""Proofs: one unpartitioned asset each, in a group of their own; nothing depends on them."""

import dagster as dg

from assets.keys import PROOF_GROUP, proof_key
from assets.proof.contract import HELD, Proof
from assets.proof.registry import PROOFS
from assets.proving import PUBLISHED, markdown, run_proof
from assets.stage_runner import paced, picture, told
from resources.environments import Environment


def build_proofs() -> list[dg.AssetsDefinition]:
    """Every registered proof, at the size that is published."""
    return [build_proof(proof) for proof in PROOFS]


def build_proof(proof: Proof) -> dg.AssetsDefinition:
    key = proof_key(proof.name)

    @dg.asset(
        key=key,
        group_name=PROOF_GROUP,
        kinds={"proof"},
        description=f"{proof.claims} What it cannot see: {proof.cannot_see}",
        check_specs=[dg.AssetCheckSpec("held", asset=key, description=f"Red when the claim is broken. {proof.claims}")],
    )
    def prove(context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]) -> dg.MaterializeResult:
        tell = told(context.log.info, environment.watch)
        with paced(lambda text, done: tell(f"{proof.name}: {text}, {done:.0%}")) as progress:
            result = run_proof(proof, PUBLISHED, environment.home, progress)
        said = result.said
        shown = {table["title"]: dg.MetadataValue.md("\n".join(markdown(table))) for table in said["tables"]}
        drawn = {title: picture((result.folder / name).read_bytes(), title) for title, name in said["pictures"]}
        plain = {name: said[name] for name in ("status", "text", "seconds")}
        held = dg.AssetCheckResult(check_name="held", passed=said["status"] == HELD, metadata={"text": said["text"]})
        figure = {} if said["score"] is None else {proof.figure: said["score"]}
        return dg.MaterializeResult(metadata={**plain, **figure, **shown, **drawn}, check_results=[held])

    return prove
