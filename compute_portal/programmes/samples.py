"""Each rule of a programme with numbers: what stands beside it on its page is reckoned by the rule itself. Pure.

Quantities are GPU-seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import units
from .rules import Rules, Track

DAY = 24 * units.SECONDS_PER_HOUR
CARDS = (64, 8, 1)  # as many as fill a day of the track
AWARDED = units.gpu_seconds(1_000)


@dataclass(frozen=True, slots=True)
class OfTrack:
    """A request that falls into this track."""

    track: Track
    cards: int
    days: int
    gpu_seconds: int


@dataclass(frozen=True, slots=True)
class HalfTerm:
    """Of so much awarded, so much was used by half term: so much goes back, the rest is kept."""

    awarded: int
    used: int
    back: int
    kept: int


def of_tracks(rules: Rules) -> list[OfTrack]:
    """As large as fits each track in whole days; none for a track that a smaller one always goes before."""
    found = []
    for track in rules.tracks:
        for cards in CARDS:
            days = min(track.most_days, track.most_gpu_seconds // (cards * DAY))
            if days and rules.track_for(cards * days * DAY, days) is track:
                found.append(OfTrack(track, cards, days, cards * days * DAY))
                break
    return found


def of_half_term(rules: Rules) -> HalfTerm | None:
    """Half as much used as would be enough."""
    used = AWARDED * rules.slow_percent // 200
    back = rules.taken_at_half_term(used, AWARDED, AWARDED - used)
    return HalfTerm(AWARDED, used, back, AWARDED - used - back) if back else None
