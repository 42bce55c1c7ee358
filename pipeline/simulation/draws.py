"""Counter-based random numbers: a draw depends on its name, never on what was drawn before it.

A name is (seed, stream, session, instrument), so any instrument-day can be made again alone.
"""

from __future__ import annotations

import numba
import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
_S16, _S32, _S48, _LOW = np.uint64(16), np.uint64(32), np.uint64(48), np.uint64(0xFFFF)


@numba.njit(cache=True, inline="always")
def advance(state: np.uint64) -> np.uint64:
    """The next state of a splitmix64 stream (Steele, Lea & Flood 2014)."""
    return np.uint64(state) + _GOLDEN


@numba.njit(cache=True, inline="always")
def bits(state: np.uint64) -> np.uint64:
    """64 mixed bits of a state."""
    z = np.uint64(state)
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@numba.njit(cache=True, inline="always")
def stream(seed: int, name: int, session: int, instrument: int) -> np.uint64:
    """The first state of the stream of one instrument's session."""
    state = bits(np.uint64(seed) + _GOLDEN * np.uint64(name + 1))
    state = bits(state + _GOLDEN * np.uint64(session + 1))
    return bits(state + _GOLDEN * np.uint64(instrument + 1))


@numba.njit(cache=True, inline="always")
def uniform(state: np.uint64) -> float:
    """A uniform number in (0, 1)."""
    return (float(bits(state) >> _S11) + 0.5) * 2.0**-53


@numba.njit(cache=True, inline="always")
def rough_normal(state: np.uint64) -> float:
    """Unit variance from four 16-bit uniforms: cheap, for bridges that need no tails."""
    z = bits(state)
    total = float(z & _LOW) + float((z >> _S16) & _LOW) + float((z >> _S32) & _LOW) + float(z >> _S48)
    return (total - 131_070.0) * (1.0 / 37_837.4)


@numba.njit(cache=True)
def heavy_tailed(state: np.uint64) -> float:
    """Student's t with 4 degrees of freedom, scaled to unit variance."""
    a = uniform(state)
    b = uniform(advance(state))
    c = uniform(advance(advance(state)))
    d = uniform(advance(advance(advance(state))))
    normal = np.sqrt(-2.0 * np.log(a)) * np.cos(2.0 * np.pi * b)
    return normal / np.sqrt(-np.log(c * d))


@numba.njit(cache=True)
def uniforms(seed: int, name: int, sessions: np.ndarray, instruments: np.ndarray) -> np.ndarray:
    """One uniform number per (session, instrument) pair."""
    out = np.empty(len(sessions))
    for k in range(len(sessions)):
        out[k] = uniform(stream(seed, name, sessions[k], instruments[k]))
    return out
