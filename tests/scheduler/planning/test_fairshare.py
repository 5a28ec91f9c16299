"""Fair Tree against worked examples and against a literal transcription of its published definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.planning.fairshare import Leaf, decayed, rank


@dataclass
class Account:
    """A node of the tree as the Slurm documentation draws it; one without children is an allocation."""

    shares: float
    usage: float = 0.0
    children: dict[int, Account] = field(default_factory=dict)
    level_fs: float = 0.0
    allocation_id: int | None = None


def transcription(leaves: list[Leaf]) -> dict[int, float]:
    """https://slurm.schedmd.com/fair_tree.html, "Algorithm", "Level Fairshare Calculation" and "Ties", step by step."""
    root = Account(1)
    for leaf in leaves:
        programme = root.children.setdefault(leaf.programme_id, Account(leaf.programme_shares))
        enterprise = programme.children.setdefault(leaf.enterprise_id, Account(leaf.enterprise_shares))
        user = Account(leaf.allocation_shares, allocation_id=leaf.allocation_id)
        enterprise.children[leaf.allocation_id] = user
        for account in (root, programme, enterprise, user):
            account.usage += leaf.usage

    def calculate(parent: Account) -> None:
        all_shares = sum(child.shares for child in parent.children.values())
        for child in parent.children.values():
            s = child.shares / all_shares if all_shares else 0.0
            u = child.usage / parent.usage if parent.usage else 0.0
            child.level_fs = 0.0 if s == 0 else math.inf if u == 0 else s / u
            calculate(child)

    calculate(root)
    count = rank_without_ties = len(leaves)
    factors: dict[int, float] = {}

    def visit(siblings: list[Account]) -> None:
        nonlocal rank_without_ties
        siblings.sort(key=lambda account: -account.level_fs)
        for _, tied in itertools.groupby(siblings, key=lambda account: account.level_fs):
            accounts = list(tied)
            factor = rank_without_ties / count
            for user in accounts:
                if user.allocation_id is not None:
                    factors[user.allocation_id] = factor  # tied siblings receive the same rank
                    rank_without_ties -= 1
            merged = [child for account in accounts for child in account.children.values()]
            if merged:
                visit(merged)  # tied accounts have their children lists merged before descending

    visit(list(root.children.values()))
    return factors


numbers = st.integers(0, 4)


@st.composite
def trees(draw: st.DrawFn) -> list[Leaf]:
    leaves: list[Leaf] = []
    for programme in range(draw(st.integers(1, 3))):
        programme_shares = draw(numbers)
        for enterprise in range(draw(st.integers(1, 3))):
            enterprise_shares = draw(numbers)
            for _ in range(draw(st.integers(1, 3))):
                id = len(leaves)
                # The same enterprise may stand under several programmes.
                leaves.append(
                    Leaf(programme, programme_shares, enterprise, enterprise_shares, id, draw(numbers), draw(numbers))
                )
    return draw(st.permutations(leaves))


@given(trees())
def test_the_factors_are_those_of_the_published_definition(leaves: list[Leaf]) -> None:
    assert rank(leaves) == transcription(leaves)


@given(trees())
def test_all_children_of_the_better_sibling_come_before_all_children_of_the_worse(leaves: list[Leaf]) -> None:
    factors = rank(leaves)
    ranges = {
        programme: [factors[leaf.allocation_id] for leaf in leaves if leaf.programme_id == programme]
        for programme in {leaf.programme_id for leaf in leaves}
    }
    levels = {
        leaf.programme_id: (leaf.programme_shares, sum(o.usage for o in leaves if o.programme_id == leaf.programme_id))
        for leaf in leaves
    }
    for one, other in itertools.permutations(ranges, 2):
        (shares, usage), (other_shares, other_usage) = levels[one], levels[other]
        # Cross-multiplied, so that no usage is infinitely good and no shares infinitely bad.
        if shares and shares * other_usage > other_shares * usage:
            assert min(ranges[one]) > max(ranges[other])


def test_a_known_series_of_usage_gives_the_known_factors() -> None:
    # Programme 1: .6 of the shares ÷ .8 of the usage = .75; programme 2: .4 ÷ .2 = 2, so all of it comes first.
    # Under 2: enterprise 20 has .75 ÷ .75 = 1, enterprise 21 .25 ÷ .25 = 1: they tie and their allocations are merged:
    # 200 has 1/2 ÷ 50/150 = 1.5, 210 is alone with 1, 201 has 1/2 ÷ 100/150 = .75.
    # Under 1: enterprise 10 has used nothing and comes first. Enterprise 20 stands there too, with
    # 111 at 1/3 ÷ 200/800 = 1.33 and 110 at 2/3 ÷ 600/800 = .89.
    leaves = [
        Leaf(1, 60, 10, 1, 100, 1, 0),
        Leaf(1, 60, 20, 1, 110, 2, 600),
        Leaf(1, 60, 20, 1, 111, 1, 200),
        Leaf(2, 40, 20, 3, 200, 1, 50),
        Leaf(2, 40, 20, 3, 201, 1, 100),
        Leaf(2, 40, 21, 1, 210, 1, 50),
    ]
    assert rank(leaves) == {200: 6 / 6, 210: 5 / 6, 201: 4 / 6, 100: 3 / 6, 111: 2 / 6, 110: 1 / 6}


def test_who_has_used_nothing_ties_at_the_top_and_who_has_no_shares_is_last() -> None:
    leaves = [
        Leaf(1, 1, 10, 1, 100, 1, 0),
        Leaf(1, 1, 11, 1, 110, 1, 0),
        Leaf(1, 1, 12, 1, 120, 1, 500),
        Leaf(1, 1, 13, 0, 130, 1, 0),
    ]
    assert rank(leaves) == {100: 1.0, 110: 1.0, 120: 0.5, 130: 0.25}


def test_nobody_has_a_factor_when_there_is_nobody() -> None:
    assert rank([]) == {}


def test_usage_counts_half_after_each_half_life() -> None:
    week = 7 * 86_400
    assert decayed(1_000.0, 0, week) == 1_000.0
    assert decayed(1_000.0, week, week) == 500.0
    assert decayed(1_000.0, 3 * week, week) == 125.0
    assert decayed(decayed(1_000.0, 100, week), 200, week) == pytest.approx(decayed(1_000.0, 300, week))
