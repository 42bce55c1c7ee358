"""Proofs: one unpartitioned asset each, in a group of their own; nothing depends on them."""

import dagster as dg

from assets.proof.contract import HELD, Proof
from assets.proof.registry import PROOFS
from assets.proving import PUBLISHED, markdown, run_proof
from assets.stage_runner import paced, told
from resources.environments import Environment

GROUP = "proof"


def build_proofs() -> list[dg.AssetsDefinition]:
    """Every registered proof, at the size that is published."""
    return [build_proof(proof) for proof in PROOFS]


def build_proof(proof: Proof) -> dg.AssetsDefinition:
    @dg.asset(
        key=dg.AssetKey([GROUP, proof.name]),
        group_name=GROUP,
        kinds={"proof"},
        description=f"{proof.claims} What it cannot see: {proof.cannot_see}",
    )
    def prove(context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]) -> dg.MaterializeResult:
        tell = told(context.log.info, environment.watch)
        with paced(lambda text, done: tell(f"{proof.name}: {text}, {done:.0%}")) as progress:
            said = run_proof(proof, PUBLISHED, environment.home, progress).said
        shown = {table["title"]: dg.MetadataValue.md("\n".join(markdown(table))) for table in said["tables"]}
        plain = {name: said[name] for name in ("status", "text", "seconds")}
        return dg.MaterializeResult(metadata={**plain, "held": said["status"] == HELD, **shown})

    return prove

