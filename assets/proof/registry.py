"""Every proof, in the order in which they are published."""

from assets.proof.attacks import ATTACKS
from assets.proof.causality import CAUSALITY
from assets.proof.contract import Proof
from assets.proof.crashes import CRASHES
from assets.proof.executability import EXECUTABILITY
from assets.proof.leak_zoo import LEAK_ZOO
from assets.proof.live_parity import LIVE_PARITY
from assets.proof.null_market import NULL_MARKET
from assets.proof.planted_market import PLANTED_MARKET
from assets.proof.trials import TRIALS
from assets.proof.vendor_faults import VENDOR_FAULTS

PROOFS: tuple[Proof, ...] = (
    NULL_MARKET,
    PLANTED_MARKET,
    LEAK_ZOO,
    CAUSALITY,
    TRIALS,
    ATTACKS,
    CRASHES,
    VENDOR_FAULTS,
    LIVE_PARITY,
    EXECUTABILITY,
)
