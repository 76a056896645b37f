"""``python -m benchmarks.coverage``: how often 95 % intervals contain the true value, in simulation.

1. Draw many sets of items from a population whose true value is known.
2. Take the interval of each set, by the functions that summaries and comparisons at equal cost call.
3. Count those that contain the true value.

All sets are resampled alike, which is fast and leaves every set's own interval as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from caa_interp.evaluation.frontier import crossing
from caa_interp.evaluation.summary import weighing_equally
from caa_interp.statistics import (
    bootstrap_mean,
    jackknife_interval,
    paired_shares_interval,
    rank_correlations,
    slopes,
    wilson_interval,
)

CONFIDENCE = 0.95
N_ITEMS = (5, 10, 24, 50)
N_SETS = 4000
CHUNK = 500  # sets that are held in memory at once
N_CONDITIONS = 12
MULTIPLIERS = np.array([-1.0, 0.0, 1.0])
Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]


# Populations with mean 0


def normal(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    return generator.normal(size=shape)


def skewed(generator: np.random.Generator, shape: Shape, sigma: float = 0.5) -> np.ndarray:
    """Lognormal: skewness 1.75, or 6.2 with ``sigma`` 1."""
    return generator.lognormal(sigma=sigma, size=shape) - np.exp(sigma**2 / 2)


def very_skewed(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    return skewed(generator, shape, 1.0)


def tied(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal, rounded to whole standard deviations."""
    return np.round(generator.normal(size=shape))


# Whether the interval of each of ``n_sets`` sets contains the true value


def means(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    _, low, high = bootstrap_mean(draw(generator, (n_items, n_sets)), generator, CONFIDENCE)
    return holds(low, high, 0.0)


def means_of_groups(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    """Groups that weigh equally: one of half of the items, and others of two items or one."""
    group = np.maximum(np.arange(n_items) - n_items // 2 + 2, 0) // 2
    _, low, high = bootstrap_mean(
        weighing_equally(2.0 + draw(generator, (n_items, n_sets)), group), generator, CONFIDENCE
    )
    return holds(low, high, 2.0)


def mean_slopes(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    """Every item responds by a slope of its own, and is scored with noise."""
    own, noise = draw(generator, (n_items, n_sets, 1)), generator.normal(0, 0.5, (n_items, n_sets, 3))
    _, low, high = bootstrap_mean(slopes(MULTIPLIERS, own * MULTIPLIERS + noise), generator, CONFIDENCE)
    return holds(low, high, 0.0)


def mean_rank_correlations(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    own, noise = draw(generator, (n_items, n_sets, 1)), generator.normal(0, 0.5, (n_items, n_sets, 3))
    _, low, high = bootstrap_mean(rank_correlations(MULTIPLIERS, own * MULTIPLIERS + noise), generator, CONFIDENCE)
    return holds(low, high, 0.0)


def shares(share: float, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    return holds(*wilson_interval(generator.binomial(n_items, share, n_sets) / n_items, n_items, CONFIDENCE), share)


def share_changes(
    flipped: tuple[float, float], generator: np.random.Generator, n_items: int, n_sets: int
) -> np.ndarray:
    """Right answers gained or lost, so much of all, where else 70 % of the answers are right."""
    gained, lost = flipped
    kept = 1 - gained - lost
    cells = generator.choice(4, p=[0.7 * kept, 0.3 * kept, gained, lost], size=(n_items, n_sets))
    after, before = (np.isin(cells, right).astype(float) for right in ((0, 2), (0, 3)))
    return holds(*paired_shares_interval(after, before, CONFIDENCE), gained - lost)


def mean_products(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    """Each item with every other, as in the statistics of reliability."""
    values = 2.0 + draw(generator, (n_items, n_sets))
    total = values.sum(axis=0)
    products = total**2 - (values**2).sum(axis=0)
    left_out = (products - 2 * values * (total - values)) / ((n_items - 1) * (n_items - 2))
    found = zip((products / (n_items * (n_items - 1))).tolist(), left_out.T, strict=True)
    return holds(*np.transpose([jackknife_interval(*one, CONFIDENCE) for one in found]), 4.0)


def all_means(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    """Correlated conditions, all of which must be contained; a tenth of the sets, since these are resampled singly."""
    found = []
    for _ in range(n_sets // 10):
        values = draw(generator, (n_items, 1)) + draw(generator, (n_items, N_CONDITIONS))
        _, low, high = bootstrap_mean(values, generator, CONFIDENCE, simultaneous=True)
        found.append(holds(low, high, 0.0).all())
    return np.array(found)


def effects_at_cost(draw: Draw, generator: np.random.Generator, n_items: int, n_sets: int) -> np.ndarray:
    """Items respond each by a slope of its own, and prompts cost each its own share of the squared multiplier.

    As many prompts as items; a tenth of the sets, since these are resampled singly.
    """
    doses, found = np.array([0.0, 1.0, 2.0, 4.0]), []
    for _ in range(n_sets // 10):
        effects = (1 + 0.8 * draw(generator, (n_items, 1))) * doses + generator.normal(0, 0.3, (n_items, 4)) * (
            doses > 0
        )
        costs = (1 + 0.6 * draw(generator, (n_items, 1))) * doses**2 * generator.normal(1, 0.1, (n_items, 4)) / 20
        _, _, low, high = crossing(effects, costs, doses, 0.1, generator, CONFIDENCE)
        found.append(holds(low, high, math.sqrt(2)))
    return np.array(found)


def holds(low: np.ndarray, high: np.ndarray, truth: float) -> np.ndarray:
    return (low <= truth + 1e-9) & (truth - 1e-9 <= high)  # their ends are rounded


ROWS: dict[tuple[str, str], tuple[Callable[..., np.ndarray], Any]] = {
    ("mean or change", "normal"): (means, normal),
    ("mean or change", "skewed"): (means, skewed),
    ("mean or change", "very skewed"): (means, very_skewed),
    ("mean or change", "tied"): (means, tied),
    ("mean of unequal groups", "normal"): (means_of_groups, normal),
    ("mean of unequal groups", "skewed"): (means_of_groups, skewed),
    ("change of `correct`", "15 % gained, 5 % lost"): (share_changes, (0.15, 0.05)),
    ("change of `correct`", "4 % lost"): (share_changes, (0.0, 0.04)),
    ("slope", "normal"): (mean_slopes, normal),
    ("slope", "skewed"): (mean_slopes, skewed),
    ("slope", "tied"): (mean_slopes, tied),
    ("rank correlation", "normal"): (mean_rank_correlations, normal),
    ("share", "0.5"): (shares, 0.5),
    ("share", "0.8"): (shares, 0.8),
    ("share", "0.95"): (shares, 0.95),
    ("reliability", "normal"): (mean_products, normal),
    ("reliability", "skewed"): (mean_products, skewed),
    ("effect at equal cost", "normal"): (effects_at_cost, normal),
    ("effect at equal cost", "skewed"): (effects_at_cost, skewed),
    (f"all of {N_CONDITIONS} changes", "normal"): (all_means, normal),
    (f"all of {N_CONDITIONS} changes", "skewed"): (all_means, skewed),
}


def coverage(row: tuple[str, str], n_items: int, n_sets: int = N_SETS, seed: int = 0) -> np.ndarray:
    """Whether each simulated interval contains the true value."""
    simulate, population = ROWS[row]
    generator = np.random.default_rng(seed)
    chunks = [min(CHUNK, n_sets - begin) for begin in range(0, n_sets, CHUNK)]
    return np.concatenate([simulate(population, generator, n_items, size) for size in chunks])


def main() -> None:
    """Print the table of docs/concepts.md, in percent."""
    print(f"| interval | items | {' | '.join(f'n = {n}' for n in N_ITEMS)} |")
    print("|---|---|" + "---|" * len(N_ITEMS))
    for row in ROWS:
        cells = [f"{100 * coverage(row, n).mean():.0f}" for n in N_ITEMS]
        print(f"| {row[0]} | {row[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
