"""Every claim of the house and what its test cannot see, in the order in which they are published.

A proof's test is `run` of the module of its name. It is imported when it is first run: together these modules bring
every library of the house, and Dagster reads this registry whenever it loads the definitions.
"""

from importlib import import_module
from pathlib import Path

from assets.proof.contract import Progress, Proof, Size
from pipeline.diagnostics.finding import Finding


def _proof(name: str, title: str, claims: str, cannot_see: str, figure: str) -> Proof:
    def run(size: Size, folder: Path, progress: Progress) -> Finding:
        found: Finding = import_module(f"{__package__}.{name}").run(size, folder, progress)
        return found

    return Proof(name, title, claims, cannot_see, figure, run)


PROOFS: tuple[Proof, ...] = (
    _proof(
        name="null_market",
        title="Null market control",
        claims=(
            "On raw tables without predictability (same calendar, suspensions, limits, cross-correlation, volatility "
            "clustering, slow features, with and without drift) the whole graph finds nothing and promotes nothing."
        ),
        cannot_see=(
            "A leak that moves the mean rank IC by less than the figures in the first table, which are coarse for a "
            "study of minutes: eight markets of 100 days have few independent stretches. One in a family that is "
            "left out (the nets) or in a table that these markets lack (minute bars of stocks). One that only real "
            "data has, such as a vendor's silent backfill. Members boost at most 20 rounds here."
        ),
        figure="standard errors between 0 and the mean rank IC, of the study farthest away",
    ),
    _proof(
        name="planted_market",
        title="Positive control",
        claims=(
            "A planted rank IC of 0.03 at 1,000 names x 1,000 sessions is recovered within 0.005; at the size of the "
            "demo a stronger one is found by every member and promoted under the studies' own gates and bounds."
        ),
        cannot_see=(
            "Whether real markets hold a signal of that kind: the planted ones follow from columns that a feature "
            "reads. A signal that nobody planted, or one that lives only in the minutes of the wide market, is not "
            "asked for."
        ),
        figure="share of the planted rank IC that the study's own score recovers",
    ),
    _proof(
        name="leak_zoo",
        title="Leak zoo",
        claims="Each of the known ways in which the future enters a model turns a named check of the house red.",
        cannot_see=(
            "Leaks that nobody thought of. A leak in a table that says which code is which instrument or which day "
            "is a session. What a net with windows over sessions takes from features of tested sessions before its "
            "rows. A rank label places a name among others of its session whose exits may come later than its own "
            "span ends."
        ),
        figure="share of seeded leaks that the named check caught",
    ),
    _proof(
        name="causality",
        title="Causality certificates",
        claims=(
            "No registered feature, raw score, calibrated score or decision moves by one bit when the future is cut, "
            "when history is cut at the declared look-back, or when the batch, the order of rows or the universe "
            "changes."
        ),
        cannot_see=(
            "What enters before the panel: a vendor row with a wrong publication time is honest to these laws (the "
            "panel's own proof is the leak zoo's). A dependence that no row of these markets shows; what training "
            "learnt from (folds certify that). A look-back is measured at a few cuts, so a need that shows nowhere "
            "there reads too short. Features across a session's names, and all predictions by session, may depend on "
            "other eligible names."
        ),
        figure="values that moved",
    ),
    _proof(
        name="trials",
        title="Trial ledger and overfitting gates",
        claims=(
            "Every configuration that is scored on rows a gate reads is in the ledger, no row of it can be edited, "
            "removed or moved unseen, and with that count the gates refuse the best of 200 worthless configurations."
        ),
        cannot_see=(
            "A search in another home, or one by eye: a model's metrics on its test rows are shown before the "
            "backtest records a trial. Rows cut from the tail before any scorecard, bundle or champion's record "
            "anchored them; a ledger and every anchor rewritten together. Searches here are independent, normal and "
            "of 500 sessions; 8 of 1,500 such searches passed a deflated ratio of 0.9. Other configurations are "
            "another number of one member."
        ),
        figure="share of worthless searches that the gates refused",
    ),
    _proof(
        name="attacks",
        title="Promotion attacks",
        claims=(
            "No candidate becomes champion, and no bundle serves, while a gate is red, missing, stale or for another "
            "hash, when the champion is materialised by hand, by two faults at once, with a tampered bundle, ledger "
            "or stored verdict, or with an edited pointer."
        ),
        cannot_see=(
            "Hashes show edits, they do not sign. Whoever can write to the home and rewrites everything that names a "
            "result, commit log, verdicts, bundle, ledger and champion's records together and consistently, is not "
            "seen; nor is code changed before it runs. Verdicts are re-read, not judged again. An older champion's "
            "record left as the newest (its successor's file removed) serves that older champion. Gates had bounds "
            "that any market meets, so that every refusal here is due to the attack; whether gates refuse bad models "
            "is the other proofs' matter."
        ),
        figure="promotions",
    ),
    _proof(
        name="crashes",
        title="Crash and replay",
        claims=(
            "Killed with SIGKILL between any two steps, before any file appears or at any moment, and resumed, a "
            "home ends with the same contents as one that ran in peace; and so does one made anew in other "
            "processes."
        ),
        cannot_see=(
            "A power cut (what a kill leaves, the operating system still writes out), a full disk, file systems "
            "without atomic renames and links, Dagster's own run history (in memory here), other machines: their CPU "
            "may round differently."
        ),
        figure="share of kills after which every content was equal",
    ),
    _proof(
        name="vendor_faults",
        title="Vendor faults",
        claims=(
            "Whatever goes wrong between a vendor and the lake, alone or in mixtures, the lake ends equal to the "
            "truth or the run stops with an error that names what is wrong; a gap is never silent."
        ),
        cannot_see=(
            "An answer in which nothing is wrong, such as a row left out of a day or another price, cannot be told "
            "from the truth until the vendor says otherwise, and that is heard only inside the window of sessions "
            "that are asked for again. Rows that a vendor withdraws stay in the lake; that is told. The vendors here "
            "are simulations of their pages: a fault that nobody has written down is not among them. Streams are not "
            "tried, because the house reads none, nor folders of book snapshots, which have no protocol."
        ),
        figure="share of faulted ingestions that ended as they must",
    ),
    _proof(
        name="live_parity",
        title="Parity over time",
        claims=(
            "What was decided live, session by session, the research path makes again the next day and at the end, "
            "equal in every bit; and a single changed bit in any file between them is found and named."
        ),
        cannot_see=(
            "A mistake that both paths share, since they are one code; a raw row that the vendor sent wrongly and "
            "never corrects; a changed bit that later steps round away before anything compares it (raw values are "
            "changed above the bits that a change of units may round); another CPU class."
        ),
        figure="share of rows made again with every bit",
    ),
    _proof(
        name="executability",
        title="Executability and survivorship",
        claims=(
            "No fill in the simulated history was impossible, judged from raw vendor rows and dated rules by code "
            "that shares nothing with the fills; and the universe of each day is exactly what was listed on it."
        ),
        cannot_see=(
            "Whether an order of some size would have been filled at that price (see capacity), queues at a price "
            "limit, price cages, halts of minutes inside a session, lots and odd lots, funding paid while a position "
            "is held, and slippage beyond the flat costs. The gap is that of simulated delistings: how much real "
            "ones cost depends on how they fell."
        ),
        figure="impossible fills",
    ),
)
