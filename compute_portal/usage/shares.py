"""How much of its nodes a piece of work really takes, as GPUs. Pure.

Whoever takes half of a node's CPUs leaves room for half of its GPUs only: the largest share counts.
"""

from __future__ import annotations

from dataclasses import dataclass

MILLI = 1_000


@dataclass(frozen=True, slots=True)
class Size:
    """GPUs, CPUs and memory: of the nodes that something stands on, or what it takes of them. None: not reported."""

    gpus: int
    cpus: int | None = None
    memory_gib: int | None = None


def largest_share(taken: Size, nodes: Size, *, slice_milli: int = MILLI) -> int:
    """Thousandths of a GPU: the largest of the three shares of the nodes, times the nodes' GPUs; at least one.

    `slice_milli` is what part of a card each of `taken.gpus` is. What is not reported of either side does not count.
    """
    shares = [taken.gpus * slice_milli]
    for part, whole in ((taken.cpus, nodes.cpus), (taken.memory_gib, nodes.memory_gib)):
        if part is not None and whole:
            shares.append((2 * part * nodes.gpus * MILLI + whole) // (2 * whole))  # half up
    return max(1, *shares)


def gpu_seconds(share_milli: int, seconds: int) -> int:
    """A second that was begun counts whole, so that nothing metered is nothing."""
    return -(-share_milli * seconds // MILLI)
