"""What an environment must know of each vendor: its tables, its simulated market, and a source of every kind.

The only place that tells vendors apart; their clients and protocols are in their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.asof.spec import SymbolsSpec, UniverseSpec
from pipeline.errors import TokenRejected
from pipeline.tables import binance, tushare
from pipeline.tables.spec import TableSpec
from resources.source import Dumped, Source, Together

if TYPE_CHECKING:
    from resources.environments import Environment

COPIES = "vendor"  # folder of a home for what a vendor's files were copied to


@dataclass(frozen=True)
class Vendor:
    """One vendor.

    Parameters
    ----------
    tables : mapping
        Name -> spec.
    calendar_table, listing : str
        The tables that tell the open sessions and the listed codes; empty where there is none.
    bars : str
        The table whose days are the history of an import.
    brought : tuple of str
        Tables that it does not sell: a folder of one's own brings them.
    token_variable : str
        Environment variable with the account's secret; empty where the vendor asks for none.
    market : callable
        (profile, replaced fields) -> its simulated market.
    market_sessions : callable
        That market's sessions.
    simulated, live : callable
        Environment -> its source over that market, and over the network.
    imported : callable
        (folder, universe) -> a folder of the vendor's tables as a source.
    """

    tables: Mapping[str, TableSpec]
    calendar_table: str
    listing: str
    bars: str
    brought: tuple[str, ...]
    token_variable: str
    market: Callable[[str, Mapping[str, Any]], Any]
    market_sessions: Callable[[Any], Sequence[date]]
    simulated: Callable[[Environment], Source]
    live: Callable[[Environment], Source]
    imported: Callable[[Path, UniverseSpec | SymbolsSpec], Dumped]


def _tushare_market(profile: str, replaced: Mapping[str, Any]) -> Any:
    from resources.simulated import simulated_market

    return simulated_market(profile, replaced)


def _tushare_simulated(environment: Environment) -> Source:
    from resources.simulated import SIMULATED_TOKEN, SimulatedVendor
    from resources.tushare import TushareClient, TushareSource

    transport = SimulatedVendor(environment.simulated, environment.clock)
    return TushareSource(TushareClient(SIMULATED_TOKEN, transport=transport, clock=environment.clock))


def _tushare_live(environment: Environment) -> Source:
    from resources.tushare import TushareClient, TushareSource

    settings, token, variable = environment.settings, environment.token, environment.vendor.token_variable
    if not token:
        raise TokenRejected(f"the variable {variable} must hold your Tushare token", "it is empty",
                            f"export {variable}=...")
    return TushareSource(TushareClient(token, base_url=settings.base_url, clock=environment.clock,
                                       calls_per_minute=settings.calls_per_minute))


def _tushare_imported(folder: Path, universe: UniverseSpec | SymbolsSpec) -> Dumped:
    from resources.imported import FolderSource

    return FolderSource(folder)


def _binance_market(profile: str, replaced: Mapping[str, Any]) -> Any:
    from resources.simulated_perpetual import simulated_perpetual

    return simulated_perpetual(profile, replaced)


def _binance_simulated(environment: Environment) -> Source:
    from resources.simulated_perpetual import simulated_source
    from resources.simulated_perpetual_files import SimulatedBooks

    market, clock, copies = environment.simulated, environment.clock, environment.home / COPIES
    candles = simulated_source(market, clock, copies / "archive", lambda line: environment.watch(line))
    return Together(candles, SimulatedBooks(market, clock, copies / "books"))


def _binance_live(environment: Environment) -> Source:
    from resources.binance import BinanceSource
    from resources.binance_archive import ArchiveClient
    from resources.binance_rest import BinanceRest
    from resources.book_folder import BookFolder

    clock, books = environment.clock, environment.settings.books
    archive = ArchiveClient(environment.home / COPIES / "archive", clock=clock)
    vendor = BinanceSource(archive, {"um": BinanceRest("um", clock=clock)}, clock, lambda line: environment.watch(line))
    return Together(vendor, BookFolder(Path(books), clock=clock)) if books else vendor


def _binance_imported(folder: Path, universe: UniverseSpec | SymbolsSpec) -> Dumped:
    from resources.binance_folder import BinanceFolder

    return BinanceFolder(folder, universe.symbols if isinstance(universe, SymbolsSpec) else ())


VENDORS: dict[str, Vendor] = {
    "tushare": Vendor(tushare.TABLES, "trade_cal", "stock_basic", "daily", (), "TUSHARE_TOKEN", _tushare_market,
                      lambda market: market.sessions, _tushare_simulated, _tushare_live, _tushare_imported),
    "binance": Vendor(binance.TABLES, "", "", binance.KLINES_1M.name, (binance.BOOK_1M.name,), "", _binance_market,
                      lambda market: market.days, _binance_simulated, _binance_live, _binance_imported),
}
