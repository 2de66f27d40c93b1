"""How much of what it wants each claimant gets when there is not enough for all. Pure.

A claimant's *share* is the largest part of any one resource that it gets.  All shares grow
alike until a claimant has what it wants or a resource is used up (dominant resource
fairness: Ghodsi et al., NSDI 2011).  So the smallest share is as large as it can be, and
who wants little gets all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def fair_fractions(wanted: Sequence[Mapping[str, int]], capacity: Mapping[str, int]) -> list[float]:
    """Return which part of what it wants each claimant gets, from 0 to 1.

    Parameters
    ----------
    wanted : sequence of mappings
        For each claimant the amounts of all that it wants.
    capacity : mapping
        What there is.  Who wants of a resource that there is nothing of gets nothing.
    """
    shares = [_full_share(amounts, capacity) for amounts in wanted]
    fractions = [1.0 if share == 0 else 0.0 for share in shares]
    order = [index for index, share in enumerate(shares) if 0 < share < float("inf")]
    order.sort(key=shares.__getitem__)
    left = {name: float(amount) for name, amount in capacity.items()}
    rates = _rates([(wanted[index], shares[index]) for index in order])
    for position, index in enumerate(order):
        level = min(left[name] / rate for name, rate in rates[position].items())
        if shares[index] > level * (1 + 1e-9):
            for other in order[position:]:
                fractions[other] = max(0.0, level / shares[other])
            break
        fractions[index] = 1.0
        for name, amount in wanted[index].items():
            if amount:
                left[name] -= amount
    return fractions


def _rates(claimants: Sequence[tuple[Mapping[str, int], float]]) -> list[dict[str, float]]:
    """Return how much of each resource a unit of share takes, of each claimant and those after it.

    Summed up from the last: taking the first ones off again would leave nothing of small rates.
    """
    sums: dict[str, float] = {}
    rates = []
    for amounts, share in reversed(claimants):
        for name, amount in amounts.items():
            if amount:
                sums[name] = sums.get(name, 0.0) + amount / share
        rates.append(dict(sums))
    return rates[::-1]


def _full_share(amounts: Mapping[str, int], capacity: Mapping[str, int]) -> float:
    """Return the share of who gets all of this; infinite if it cannot be had."""
    share = 0.0
    for name, amount in amounts.items():
        if amount > 0:
            there = capacity.get(name, 0)
            if there <= 0:
                return float("inf")
            share = max(share, amount / there)
    return share
