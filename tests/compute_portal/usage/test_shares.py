"""The largest share of GPUs, CPUs and memory is what counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compute_portal.usage.shares import Size, gpu_seconds, largest_share

NODE = Size(gpus=8, cpus=128, memory_gib=2_048)


def test_one_gpu_with_half_the_cpus_of_an_eight_card_node_is_four_gpu_hours_per_hour() -> None:
    share = largest_share(Size(1, 64, 100), NODE)
    assert gpu_seconds(share, 3_600) == 4 * 3_600


def test_a_quarter_of_a_card_for_four_hours_is_one_gpu_hour() -> None:
    share = largest_share(Size(1), NODE, slice_milli=250)
    assert gpu_seconds(share, 4 * 3_600) == 3_600


def test_memory_counts_as_much_as_cpus_and_two_nodes_are_twice_one() -> None:
    assert largest_share(Size(2, 8, 1_536), NODE) == 6_000
    assert largest_share(Size(2, 8, 1_536), Size(16, 256, 4_096)) == 6_000


def test_what_is_not_reported_of_either_side_does_not_count() -> None:
    assert largest_share(Size(3), NODE) == 3_000
    assert largest_share(Size(3, 128, 2_048), Size(8)) == 3_000


@given(st.integers(1, 8), st.integers(0, 128), st.integers(0, 2_048), st.integers(1, 3_600))
def test_nobody_pays_for_less_than_the_cards_nor_for_more_than_the_node(
    gpus: int, cpus: int, memory: int, seconds: int
) -> None:
    share = largest_share(Size(gpus, cpus, memory), NODE)
    assert 1_000 * gpus <= share <= 8_000
    assert gpus * seconds <= gpu_seconds(share, seconds) <= 8 * seconds
