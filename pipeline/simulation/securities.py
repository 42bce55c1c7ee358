"""The made-up securities: codes, boards, listings, episodes, ex-dates, industries. Not here: prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from pipeline.simulation import limits
from pipeline.simulation.profiles import Profile

BOARD_SHARE = (0.31, 0.25, 0.21, 0.13, 0.10)  # MAIN_SSE, MAIN_SZSE, CHINEXT, STAR, BSE
BOARD_OPENED = (date(1999, 1, 4), date(1999, 1, 4), date(2009, 10, 30), date(2019, 7, 22), date(2020, 7, 27))
CODE_STEMS = (
    ("600", "601", "603", "605"),
    ("000", "001", "002", "003"),
    ("300", "301"),
    ("688",),
    ("83", "87", "43"),
)
SUFFIX = (".SH", ".SZ", ".SZ", ".SH", ".BJ")

BSE_DIRECT_CODES = date(2024, 4, 22)  # listings from here on get a 920 code at once
BSE_PILOT = date(2025, 5, 6)
BSE_SWITCH = date(2025, 10, 9)
BSE_PILOTS = {
    "833819": "920819",
    "830799": "920799",
    "831445": "920445",
    "430489": "920489",
    "839167": "920167",
    "834682": "920682",
}

ARRANGEMENT_SESSIONS = 15
DECLINE_SESSIONS = 60
UNMAPPED = -1


@dataclass(frozen=True)
class Securities:
    """One entry per instrument, in order of its first code; ordinals count the sample's sessions.

    `first`..`last` is the traded life in the sample; `st`, `suspended`, `bands` are [sessions, instruments].
    """

    code: np.ndarray
    later_code: np.ndarray  # "" where the code never changed
    switched: np.ndarray  # datetime64[D], NaT where the code never changed
    board: np.ndarray
    listed: np.ndarray  # datetime64[D]
    first: np.ndarray
    last: np.ndarray
    delisted: np.ndarray  # bool
    arrangement: np.ndarray  # ordinal of the delisting arrangement's first session, -1 without one
    decline: np.ndarray  # ordinal from which the price is driven down, -1 for most
    industry: np.ndarray  # UNMAPPED for some BSE names
    later_industry: np.ndarray
    industry_moved: np.ndarray  # ordinal, -1 where the industry never changed
    episodes: np.ndarray  # [n, 3] instrument, first ST ordinal, first ordinal after it
    st: np.ndarray
    suspended: np.ndarray
    bands: np.ndarray
    ex_yield: np.ndarray  # [sessions, instruments] cash dividend over price, 0 on most days
    ex_ratio: np.ndarray  # new shares per old share, 0 on most days

    def __len__(self) -> int:
        return len(self.code)


def make_securities(profile: Profile, days: list[date], calendar: np.ndarray, rng: np.random.Generator) -> Securities:
    """Draw the securities; `days` are the sample's sessions, `calendar` all known ones (datetime64[D])."""
    n, n_sessions = profile.instruments, profile.sessions
    board = _boards(n, rng)
    listed, first = _listings(board, days, rng)
    listed = np.where(listed < calendar[0], listed, calendar[np.searchsorted(calendar, listed)])
    code, later_code, switched = _codes(board, listed, rng)
    order = np.argsort(code)
    board, listed, first = board[order], listed[order], first[order]
    last, delisted, arrangement, decline = _delistings(board, first, n_sessions, rng)
    episodes = _st_episodes(board, first, last, decline, arrangement, days, rng)
    st = np.zeros((n_sessions, n), dtype=bool)
    for i, start, end in episodes:
        st[start:end, i] = True
    industry, later_industry, moved = _industries(board, n_sessions, rng)
    ex_yield, ex_ratio = _ex_dates(days, n, rng)
    return Securities(
        code[order],
        later_code[order],
        switched[order],
        board,
        listed,
        first,
        last,
        delisted,
        arrangement,
        decline,
        industry,
        later_industry,
        moved,
        episodes,
        st,
        _suspensions(first, last, arrangement, n_sessions, rng),
        _bands(board, listed, first, arrangement, days, st),
        ex_yield,
        ex_ratio,
    )


def _boards(n: int, rng: np.random.Generator) -> np.ndarray:
    counts = np.maximum((np.array(BOARD_SHARE) * n).astype(int), 3)
    counts[0] += n - counts.sum()
    return rng.permutation(np.repeat(np.arange(5), counts))


def _listings(board: np.ndarray, days: list[date], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Listing day and the ordinal of the first traded session."""
    n, n_sessions = len(board), len(days)
    opened = np.array(BOARD_OPENED, dtype="datetime64[D]")[board]
    start, axis = np.datetime64(days[0]), np.array(days, dtype="datetime64[D]")
    span = (start - opened).astype(int)
    listed = opened + (rng.random(n) * np.maximum(span - 40, 1)).astype("timedelta64[D]")
    listed += np.where((listed.astype(int) + 3) % 7 >= 5, 2, 0).astype(
        "timedelta64[D]"
    )  # no weekends (day 0 was a Thursday)
    fresh = span < 60
    newcomers = rng.choice(n, max(3, round(0.06 * n * max(1.0, n_sessions / 800))), replace=False)
    fresh[newcomers] = True
    earliest = np.maximum(np.searchsorted(axis, opened), 5)
    ordinal = (earliest + rng.random(n) * (n_sessions - 6 - earliest)).astype(int)
    # One newcomer late enough that the sample ends inside its seasoning, one early enough to be scored.
    ordinal[newcomers[:2]] = np.maximum(earliest[newcomers[:2]], [n_sessions - 25, n_sessions // 10])
    return np.where(fresh, axis[ordinal], listed), np.where(fresh, ordinal, 0)


def _codes(
    board: np.ndarray, listed: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First code, later code, switch day; a 920 number keeps the last three digits unless they are taken."""
    n = len(board)
    code, later = np.empty(n, dtype="<U9"), np.full(n, "", dtype="<U9")
    switched = np.full(n, np.datetime64("NaT"), dtype="datetime64[D]")
    direct = (board == limits.BSE) & (listed >= np.datetime64(BSE_DIRECT_CODES))
    taken = set(BSE_PILOTS) | set(BSE_PILOTS.values())
    pilots = iter(BSE_PILOTS.items())
    n_pilots = max(1, min(len(BSE_PILOTS), n // 60))
    for i in rng.permutation(n):
        stems = ("920",) if direct[i] else CODE_STEMS[board[i]]
        pilot = next(pilots, None) if board[i] == limits.BSE and not direct[i] and n_pilots > 0 else None
        if pilot:
            digits, renamed, n_pilots = pilot[0], pilot[1], n_pilots - 1
            switched[i] = np.datetime64(BSE_PILOT)
        else:
            digits = _free(str(rng.choice(stems)), taken, rng)
            renamed = ""
            if board[i] == limits.BSE and not direct[i]:
                renamed = "920" + digits[-3:]
                renamed = _free("920", taken, rng) if renamed in taken else renamed
                switched[i] = np.datetime64(BSE_SWITCH)
        taken |= {digits, renamed}
        code[i] = digits + SUFFIX[board[i]]
        later[i] = renamed + ".BJ" if renamed else ""
    return code, later, switched


def _free(stem: str, taken: set[str], rng: np.random.Generator) -> str:
    while True:
        digits = stem + "".join(str(d) for d in rng.integers(0, 10, 6 - len(stem)))
        if digits not in taken:
            return digits


def _delistings(
    board: np.ndarray, first: np.ndarray, n_sessions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Last traded ordinal, delisted, first ordinal of the arrangement (every second one) and the decline."""
    n = len(board)
    candidates = rng.permutation(np.flatnonzero((first == 0) & (board <= limits.CHINEXT)))
    gone = candidates[: max(2, round(n * min(0.15, 0.02 * max(1.0, n_sessions / 400))))]
    last, arrangement, decline = np.full(n, n_sessions - 1), np.full(n, -1), np.full(n, -1)
    last[gone] = rng.integers(DECLINE_SESSIONS + 20, n_sessions - 15, len(gone))
    decline[gone] = last[gone] - DECLINE_SESSIONS
    arrangement[gone[::2]] = last[gone[::2]] - ARRANGEMENT_SESSIONS + 1
    delisted = np.zeros(n, dtype=bool)
    delisted[gone] = True
    return last, delisted, arrangement, decline


def _st_episodes(
    board: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    decline: np.ndarray,
    arrangement: np.ndarray,
    days: list[date],
    rng: np.random.Generator,
) -> np.ndarray:
    """[n, 3] instrument, first ordinal, first after: 4% of names in 400 sessions, and all that fall."""
    n_sessions = len(days)
    healthy = rng.permutation(np.flatnonzero((first == 0) & (decline < 0)))
    chosen = healthy[: max(3, round(0.04 * len(board) * max(1.0, n_sessions / 400)))]
    start = rng.integers(1, n_sessions - 30, len(chosen))
    length = rng.integers(40, 251, len(chosen))
    # The first one is ST throughout: the vendor's list is never empty.
    start[0], length[0] = 0, n_sessions
    # One main-board name is ST across the day on which the ST band widened, when the sample holds that day.
    main = next((k for k in range(1, len(chosen)) if board[chosen[k]] <= limits.MAIN_SZSE), None)
    if main is not None and days[0] < limits.ST_TEN_PERCENT <= days[-1]:
        start[main], length[main] = max(1, days.index(limits.ST_TEN_PERCENT) - 40), n_sessions
    fallen = np.flatnonzero(decline >= 0)
    rows = [(i, s, min(s + k, n_sessions)) for i, s, k in zip(chosen, start, length, strict=True)]
    ends = np.where(arrangement >= 0, arrangement, last + 1)
    rows += [(i, max(1, decline[i] - 2), ends[i]) for i in fallen]
    return np.array(sorted(rows), dtype=np.int64)


def _industries(
    board: np.ndarray, n_sessions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(board)
    n_industries = int(np.clip(n // 8, 4, 31))
    industry = rng.integers(0, n_industries, n)
    industry[(board == limits.BSE) & (rng.random(n) < 0.3)] = UNMAPPED
    later, moved = industry.copy(), np.full(n, -1)
    movers = rng.permutation(np.flatnonzero(industry != UNMAPPED))[: max(1, n // 40)]
    later[movers] = (industry[movers] + 1) % n_industries
    moved[movers] = rng.integers(n_sessions // 4, n_sessions - 5, len(movers))
    return industry, later, moved


def _suspensions(
    first: np.ndarray, last: np.ndarray, arrangement: np.ndarray, n_sessions: int, rng: np.random.Generator
) -> np.ndarray:
    """Full-day suspensions: 0.3% of rows, 4 sessions on average, never around a listing or an end."""
    n = len(first)
    suspended = np.zeros((n_sessions, n), dtype=bool)
    count = max(2, rng.poisson(0.0008 * n * n_sessions))
    names, starts, lengths = (
        rng.integers(0, n, count),
        rng.integers(1, n_sessions, count),
        rng.geometric(0.25, count),
    )
    for i, start, length in zip(names, starts, lengths, strict=True):
        end = min(start + length, (arrangement[i] if arrangement[i] >= 0 else last[i]) - 1)
        suspended[max(start, first[i] + 10) : max(end, 0), i] = True
    return suspended


def _bands(
    board: np.ndarray,
    listed: np.ndarray,
    first: np.ndarray,
    arrangement: np.ndarray,
    days: list[date],
    st: np.ndarray,
) -> np.ndarray:
    """Width of the daily limit per session and instrument, with listing days and delisting arrangements."""
    bands = limits.bands(board, days, st)
    plain = limits.bands(board, days, np.zeros_like(st))
    for i in np.flatnonzero(first > 0):
        opening = limits.first_sessions(int(board[i]), listed[i].item())
        bands[first[i] : first[i] + len(opening), i] = opening[: len(days) - first[i]]
    for i in np.flatnonzero(arrangement >= 0):
        bands[arrangement[i] :, i] = plain[arrangement[i] :, i]
        if days[arrangement[i]] >= limits.ARRANGEMENT_REFORM:
            bands[arrangement[i], i] = limits.NO_LIMIT
    return bands


def _ex_dates(days: list[date], n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dividend yield, bonus ratio: 70% of names a year, May to July, one in five with shares."""
    cash, ratio = np.zeros((len(days), n), dtype=np.float32), np.zeros((len(days), n), dtype=np.float32)
    axis = np.array(days, dtype="datetime64[D]")
    for year in range(days[0].year, days[-1].year + 1):
        lo, hi = np.searchsorted(axis, [np.datetime64(date(year, 5, 10)), np.datetime64(date(year, 7, 25))])
        if hi - lo < 10:
            continue
        payers = np.flatnonzero(rng.random(n) < 0.7)
        when = rng.integers(lo, hi, len(payers))
        cash[when, payers] = rng.uniform(0.003, 0.04, len(payers))
        ratio[when, payers] = np.where(rng.random(len(payers)) < 0.2, rng.integers(2, 6, len(payers)) / 10, 0.0)
    return cash, ratio


def announcement(day: date, ahead: int) -> date:
    """A weekday `ahead` natural days or a little more before `day`."""
    earlier = day - timedelta(days=ahead)
    return earlier - timedelta(days=max(0, earlier.weekday() - 4))
