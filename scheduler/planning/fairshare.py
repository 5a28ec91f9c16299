"""Fair share: who has had less than their part of the pool, over programme → enterprise → allocation.

This is Slurm's published Fair Tree ("Fair Tree Fairshare Algorithm", https://slurm.schedmd.com/fair_tree.html, by Ryan
Cox and Levi Morrison of Brigham Young University), with an allocation where Slurm has a user. At each level siblings
are compared only with each other:

    level fair share = (shares ÷ shares of all siblings) ÷ (usage ÷ usage of all siblings)

which is infinite without usage and 0 without shares. The tree is walked depth-first, highest level fair share first;
siblings that tie have their children merged into one list before going down. An allocation's factor is its rank
divided by the number of allocations, 1.0 for the most under-served; allocations that tie share a rank.

Usage is decayed GPU-seconds; this module neither stores nor decays it by itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """One allocation with its place in the tree. Shares are weights among siblings; usage is decayed GPU-seconds.

    An enterprise stands under each programme that gave it an allocation, with that programme's shares for it.
    """

    programme_id: int
    programme_shares: float
    enterprise_id: int
    enterprise_shares: float
    allocation_id: int
    allocation_shares: float
    usage: float
    low_priority: bool = False  # it used more than it was awarded: its bookings come after all others


def rank(leaves: Sequence[Leaf]) -> dict[int, float]:
    """Fair-share factor of each allocation, above 0 to 1, high means under-served.

    All branches are equally deep, so walking the sorted tree with tied siblings merged is the same as sorting the
    allocations by their three level fair shares: merged children are compared by their own value, which was computed
    among their own siblings, and two allocations tie exactly when all three values do.
    """
    programme = _level_fair_shares(((), leaf.programme_id, leaf.programme_shares, leaf.usage) for leaf in leaves)
    enterprise = _level_fair_shares(
        (leaf.programme_id, (leaf.programme_id, leaf.enterprise_id), leaf.enterprise_shares, leaf.usage)
        for leaf in leaves
    )
    allocation = _level_fair_shares(
        ((leaf.programme_id, leaf.enterprise_id), leaf.allocation_id, leaf.allocation_shares, leaf.usage)
        for leaf in leaves
    )
    paths = {
        leaf.allocation_id: (
            programme[leaf.programme_id],
            enterprise[leaf.programme_id, leaf.enterprise_id],
            allocation[leaf.allocation_id],
        )
        for leaf in leaves
    }
    factors: dict[int, float] = {}
    factor, previous = 0.0, None
    for position, (allocation_id, path) in enumerate(sorted(paths.items(), key=lambda item: item[1], reverse=True)):
        if path != previous:
            factor, previous = (len(paths) - position) / len(paths), path
        factors[allocation_id] = factor
    return factors


def shares_of(leaves: Sequence[Leaf]) -> dict[int, float]:
    """Each enterprise's part of the pool: under each programme it stands under, its part of that programme's part."""
    programmes = {leaf.programme_id: leaf.programme_shares for leaf in leaves}
    enterprises = {(leaf.programme_id, leaf.enterprise_id): leaf.enterprise_shares for leaf in leaves}
    all_programmes = sum(programmes.values())
    in_programme: dict[int, float] = {}
    for (programme_id, _enterprise_id), shares in enterprises.items():
        in_programme[programme_id] = in_programme.get(programme_id, 0.0) + shares
    parts: dict[int, float] = {}
    for (programme_id, enterprise_id), shares in enterprises.items():
        whole = all_programmes * in_programme[programme_id]
        part = programmes[programme_id] * shares / whole if whole else 0.0
        parts[enterprise_id] = parts.get(enterprise_id, 0.0) + part
    return parts


def overuse(leaves: Sequence[Leaf], least: float) -> dict[int, float]:
    """Per enterprise (usage ÷ usage of all) ÷ share: 1 for who uses just its part, at least `least`.

    Before anybody has used anything everyone is at 1; an enterprise without a share is infinitely above it.
    """
    shares = shares_of(leaves)
    usage = dict.fromkeys(shares, 0.0)
    for leaf in leaves:
        usage[leaf.enterprise_id] += leaf.usage
    used = sum(usage.values())
    if not used:
        return dict.fromkeys(shares, 1.0)
    return {id: max(least, usage[id] / used / share) if share else math.inf for id, share in shares.items()}


def decayed(usage: float, seconds: int, half_life_seconds: int) -> float:
    """What usage still counts after so many seconds: half of it after each half-life."""
    return usage * math.pow(0.5, seconds / half_life_seconds)


def _level_fair_shares(rows: Iterable[tuple[Hashable, Hashable, float, float]]) -> dict[Hashable, float]:
    """Level fair share of each node, from (parent, node, shares of the node, usage of a leaf below it)."""
    shares: dict[Hashable, float] = {}
    usage: dict[Hashable, float] = {}
    parent_of: dict[Hashable, Hashable] = {}
    for parent, node, node_shares, leaf_usage in rows:
        parent_of[node] = parent
        shares[node] = node_shares
        usage[node] = usage.get(node, 0.0) + leaf_usage
    all_shares: dict[Hashable, float] = {}
    all_usage: dict[Hashable, float] = {}
    for node, parent in parent_of.items():
        all_shares[parent] = all_shares.get(parent, 0.0) + shares[node]
        all_usage[parent] = all_usage.get(parent, 0.0) + usage[node]
    return {
        node: _fair_share(shares[node], all_shares[parent], usage[node], all_usage[parent])
        for node, parent in parent_of.items()
    }


def _fair_share(shares: float, all_shares: float, usage: float, all_usage: float) -> float:
    if shares == 0:
        return 0.0
    if usage == 0:
        return math.inf
    return (shares / all_shares) / (usage / all_usage)
