"""Every proof, in the order in which they are published."""

from assets.proof.causality import CAUSALITY
from assets.proof.contract import Proof

PROOFS: tuple[Proof, ...] = (CAUSALITY,)
