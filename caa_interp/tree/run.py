"""Running trees: by which path, and in which portions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import (
    check_model,
    float_type,
    input_device,
    lock_of,
    n_layers,
    not_numbers,
    on_cpu,
    steered,
)
from caa_interp.models.attention import rotary_boundary, takes_tree_masks
from caa_interp.models.blocks import Trunk
from caa_interp.models.hooks import is_hooked_by_user
from caa_interp.models.memory import rows_that_fit
from caa_interp.models.unwrapped import bare
from caa_interp.tree.agreement import agree, agreed_so_far, length
from caa_interp.tree.branches import Branch, Path, TreeResult
from caa_interp.tree.passes import Part, run_base, run_variants
from caa_interp.tree.plain import run_plain
from caa_interp.tree.plan import Plan, deal, make_plan
from caa_interp.tree.prefix import Prefix
from caa_interp.tree.readout import distributions_of, divergences_of, log_probs_of

# Lanes with fewer rows than this spend more on copies of the shared keys and values than they save.
_LANE_ROWS = 64
# Rows that run side by side: on a processor longer matrix products gain little once this many values are in a residual
# stream, or this many rows; a GPU takes more.
_VALUES_ON_CPU, _ROWS_ON_CPU, _ROWS_ON_GPU = 2**19, 1024, 8192
# Trees are drawn up to this many at a time.
_TREES_AT_ONCE = 16
# Their whole distributions take no more than this, if it is more than one tree.
_DISTRIBUTIONS_BYTES = 2**28
_SHARE_OF_FREE_MEMORY = 0.25


def run_tree(
    model: Any, branches: Iterable[Branch], layers: Sequence[int] = (), path: Path | None = None
) -> TreeResult:
    """Run the branches of one tree, computing once what they share; see :func:`run_trees`."""
    return next(run_trees(model, [branches], layers, path))


def run_trees(
    model: Any, trees: Iterable[Iterable[Branch]], layers: Sequence[int] = (), path: Path | None = None
) -> Iterator[TreeResult]:
    """Run trees one after the other, several at a time where that is quicker.

    Parameters
    ----------
    model
        A TransformerLens model.
    trees
        The branches of each tree, usually all that is asked of one question. They are drawn as they are needed.
    layers
        Layers at which the branches' ``reads`` are averaged.
    path
        ``"tree"`` or ``"plain"``; default: the tree where the model takes its mask. A model's first tree, and every one
        that is longer than those before, is compared with the plain path; if they differ, the plain path is used from
        then on, with one warning. A model with hooks of the user's own takes the plain path too, since they may
        look at the positions of a plain sequence.

    Yields
    ------
    TreeResult
        Log-probabilities and residual streams of each tree, in the order of its branches.
    """
    check_model(model)
    if path is None and is_hooked_by_user(model):
        path = "plain"
    waiting = (_checked(model, branches) for branches in trees)
    prefix = Prefix()
    for first in waiting:
        window = [first, *islice(waiting, _n_beside(model, first) - 1)]
        results: list[TreeResult] | None = None
        with lock_of(model):
            if _path(model, path) == "tree" and max(map(length, window)) <= (rotary_boundary(model) or math.inf):
                with bare(model):
                    prefix = prefix.fitted_to(model, window)
                    results = _run_trees(model, window, list(layers), prefix)
                if path is None and not agree(model, window, results, list(layers)):
                    results = None
            results = results or [run_plain(model, branches, list(layers)) for branches in window]
        yield from results


def _n_beside(model: Any, branches: Sequence[Branch]) -> int:
    """Number of trees such as this one that are drawn at a time."""
    n_steered = sum(len(branch.tokens) - branch.start for branch in branches)
    n = _TREES_AT_ONCE if not n_steered else max(2, min(_TREES_AT_ONCE, _rows_at_once(model) // n_steered))
    row_bytes = 2 * 4 * int(model.cfg.d_vocab) * sum(bool(branch.averaged) for branch in branches)
    return max(1, min(n, _DISTRIBUTIONS_BYTES // max(1, row_bytes)))


def _rows_at_once(model: Any) -> int:
    """Number of rows that run side by side, if the memory holds them."""
    if input_device(model).type != "cpu":
        return _ROWS_ON_GPU
    return max(_ROWS_ON_CPU, _VALUES_ON_CPU // int(model.cfg.d_model))


def _checked(model: Any, branches: Iterable[Branch]) -> list[Branch]:
    branches = list(branches)
    if not branches:
        raise InputError("branches: the list is empty; give at least one Branch.")
    n_ctx = int(model.cfg.n_ctx)
    longest = max(len(branch.tokens) for branch in branches)
    if longest > n_ctx:
        raise InputError(
            f"branches: the longest has {longest} tokens, but the model's context holds {n_ctx}. Shorten it."
        )
    return branches


def _path(model: Any, path: Path | None) -> Path:
    if model in steered:
        # The hooks of a steer context know positions of plain sequences only.
        if not steered[model]:
            raise InputError(
                "model: it is being steered, and where its prompts end is not known here. Leave the steer context, or "
                "give it prompt_length or positions='all'."
            )
        return "plain"
    if path is not None:
        return path
    return "tree" if takes_tree_masks(model) and agreed_so_far(model) else "plain"


class _Job:
    """One tree while it runs: its plan, what is asked of which rows, and the answers so far.

    ``found`` holds values on the model's devices, each with where on the CPU it is to be added: to which rows of which
    answers, and with which weights.
    """

    def __init__(self, model: Any, branches: Sequence[Branch], layers: Sequence[int]) -> None:
        self.model, self.branches, self.layers = model, branches, layers
        self.plan = make_plan(branches)
        self.targets = self.plan.places([[position for position, _ in branch.targets] for branch in branches])
        self.tokens = np.array([token for branch in branches for _, token in branch.targets], dtype=np.int64)
        self.reads = self.plan.places([branch.reads for branch in branches])
        self.weights = 1 / np.array([max(1, len(branch.reads)) for branch in branches])[self.reads.branch]
        self.joins = np.array([v.join for v in self.plan.variants] + [n_layers(model)])[self.reads.variant]
        self.read_layers = set(layers) if len(self.weights) else set()
        self.join_layers = {variant.join for variant in self.plan.variants}
        self.compared = self.plan.places([branch.compared for branch in branches])
        self.averaged = self.plan.places([branch.averaged for branch in branches])
        self.shares = 1 / np.array([max(1, len(branch.averaged)) for branch in branches])[self.averaged.branch]
        asked = len(self.tokens) + len(self.compared.branch) + len(self.averaged.branch)
        self.stop = n_layers(model) if asked else max(self.read_layers | self.join_layers, default=0) + 1
        self.log_probs = torch.zeros(len(self.tokens), dtype=torch.float64)
        self.divergences = torch.zeros(len(self.compared.branch), dtype=torch.float64)
        # For each branch, its row among those that average.
        self.place = np.cumsum([bool(branch.averaged) for branch in branches]) - 1
        dtype = torch.promote_types(float_type(model), torch.float32)
        self.distributions = torch.zeros(int(self.place[-1]) + 1, 2, int(model.cfg.d_vocab), dtype=dtype)
        self.means = torch.zeros(len(branches), len(layers), int(model.cfg.d_model), dtype=torch.float64)
        self.found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float]] = []

    def keep(
        self, values: torch.Tensor, answers: torch.Tensor, at: np.ndarray, weights: torch.Tensor | float = 1.0
    ) -> None:
        self.found.append((values, answers, torch.as_tensor(at), weights))

    def read(self, layer: int, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray) -> None:
        values = residual[torch.as_tensor(rows[mine], device=residual.device)]
        weights = torch.as_tensor(self.weights[mine])[:, None]
        self.keep(values, self.means[:, self.layers.index(layer)], self.reads.branch[mine], weights)

    def answer(self, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray) -> None:
        if mine.any():
            values = log_probs_of(self.model, residual, rows[mine], self.tokens[mine])
            self.keep(values, self.log_probs, np.flatnonzero(mine))

    def compare(self, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray, unsteered: torch.Tensor) -> None:
        if mine.any():
            twins = self.compared.twin[mine] - self.n_before
            values = divergences_of(self.model, residual, rows[mine], unsteered, twins)
            self.keep(values, self.divergences, np.flatnonzero(mine))

    def average(self, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray) -> None:
        if mine.any():
            owners = self.place[self.averaged.branch[mine]]
            values = distributions_of(self.model, residual, rows[mine], owners, self.shares[mine])
            self.keep(values, self.distributions, np.unique(owners))

    def take_unsteered(self, trunk: Trunk, place: int, n_before: int, stop: int) -> None:
        """Answer from the unsteered rows; the tree has index ``place`` in the trunk's batch."""
        self.n_before, reads, targets = n_before, self.reads, self.targets
        for layer in self.read_layers:
            unsteered = (reads.variant < 0) | (layer < self.joins)
            self.read(layer, trunk.residual[layer][place], unsteered, reads.twin - n_before)
        last, averaged = trunk.residual[stop - 1][place], self.averaged
        self.answer(last, targets.variant < 0, targets.twin - n_before)
        self.average(last, averaged.variant < 0, averaged.twin - n_before)

    def take_steered(self, layer: int, residual: torch.Tensor, variants: slice, unsteered: torch.Tensor | None) -> None:
        """Answer from the steered rows of some variants; after the last block, with the ``unsteered`` rows there."""
        reads, targets, compared, plan = self.reads, self.targets, self.compared, self.plan
        offsets = np.zeros(len(plan.variants) + 1, dtype=np.int64)
        offsets[variants] = np.cumsum([0, *(len(variant.twins) for variant in plan.variants[variants])])[:-1]
        inside = np.zeros(len(plan.variants) + 1, dtype=bool)
        inside[variants] = True
        if layer in self.read_layers:
            mine = inside[reads.variant] & (layer >= self.joins)
            self.read(layer, residual, mine, offsets[reads.variant] + reads.row)
        if unsteered is not None:
            self.answer(residual, inside[targets.variant], offsets[targets.variant] + targets.row)
            self.average(residual, inside[self.averaged.variant], offsets[self.averaged.variant] + self.averaged.row)
            rows = offsets[compared.variant] + compared.row
            self.compare(residual, inside[compared.variant], rows, unsteered)

    def result(self, dtype: torch.dtype) -> TreeResult:
        """Return all answers."""
        log_probs, divergences = (
            list(torch.split(values.to(dtype), sizes))
            for values, sizes in (
                (self.log_probs, [len(branch.targets) for branch in self.branches]),
                (self.divergences, [len(branch.compared) for branch in self.branches]),
            )
        )
        sizes = [2 * bool(branch.averaged) for branch in self.branches]
        distributions = list(torch.split(self.distributions.flatten(0, 1).to(dtype), sizes))
        return TreeResult(log_probs, self.means.to(dtype), divergences, distributions, "tree")


def _run_trees(
    model: Any, trees: Sequence[Sequence[Branch]], layers: Sequence[int], prefix: Prefix
) -> list[TreeResult]:
    """Run the rows of trees of similar size side by side: first the unsteered ones, then the steered ones."""
    jobs = [_Job(model, branches, layers) for branches in trees]
    order = sorted(range(len(jobs)), key=lambda index: len(jobs[index].plan.base.tokens))
    results: dict[int, TreeResult] = {}
    n_before = len(prefix.tokens)
    while order:
        n_keys = len(jobs[order[-1]].plan.base.tokens)
        n_beside = max(1, min(_rows_at_once(model), _rows_that_fit(model, n_keys)) // (n_keys - n_before))
        chosen, order = order[-n_beside:], order[:-n_beside]
        batch = [jobs[index] for index in chosen]
        stop = max(job.stop for job in batch)
        wanted = {stop - 1}.union(*(job.read_layers for job in batch))
        keep = wanted.union(*(job.join_layers for job in batch))
        trunk = run_base(model, [job.plan for job in batch], keep, stop, prefix)
        for place, job in enumerate(batch):
            job.take_unsteered(trunk, place, n_before, stop)
        for parts, slices in _portions(model, batch):
            for layer, residuals in run_variants(model, trunk, parts, n_before, stop, wanted):
                for part, variants, residual in zip(parts, slices, residuals, strict=True):
                    last = trunk.residual[layer][part.place] if layer == stop - 1 else None
                    batch[part.place].take_steered(layer, residual, variants, last)
        found = [one for job in batch for one in job.found]
        for moved, (_, answers, at, weights) in zip(on_cpu([values for values, *_ in found]), found, strict=True):
            answers.index_add_(0, at, moved.to(answers) * weights)
        dtype = torch.promote_types(trunk.residual[stop - 1].dtype, torch.float32)
        results |= {index: job.result(dtype) for index, job in zip(chosen, batch, strict=True)}
    for branches, result in zip(trees, (results[index] for index in range(len(jobs))), strict=True):
        _check_numbers(model, branches, result, layers)
    return [results[index] for index in range(len(jobs))]


def _rows_that_fit(model: Any, n_keys: int) -> int:
    """Number of rows, each with that many keys, whose attention scores and hidden units fit the free memory."""
    # While a block computes, it holds several copies of scores and hidden units.
    n_hidden = int(model.cfg.d_mlp or 4 * model.cfg.d_model)
    row_bytes = 4 * (4 * int(model.cfg.n_heads) * n_keys + 4 * n_hidden)
    return rows_that_fit(model, row_bytes, _SHARE_OF_FREE_MEMORY)


def _check_numbers(model: Any, branches: Sequence[Branch], result: TreeResult, layers: Sequence[int]) -> None:
    """Raise :class:`ModelError` if a branch has an answer that is not a number; it names the branch that made it so."""
    bad = [branches[index] for index in result.not_numbers()]
    if bad and len(branches) > 1:
        # Rows side by side share their arithmetic, so one that is NaN spoils its neighbors: ask each by itself.
        for branch in bad:
            _run_trees(model, [[branch]], layers, Prefix())
    if bad:
        raise not_numbers(model, bad[0].label)


def _portions(model: Any, jobs: Sequence[_Job]) -> Iterator[tuple[list[Part], list[slice]]]:
    """Cut the variants of trees into portions that fit the memory; where lanes of several trees match, join them."""
    longest = max(len(job.plan.base.tokens) for job in jobs)
    limit = _rows_at_once(model)
    limit = min(limit, _rows_that_fit(model, longest + limit))
    parts: list[Part] = []
    slices: list[slice] = []
    for place, job in enumerate(jobs):
        for portion in _cut(job.plan, limit):
            variants = job.plan.variants[portion]
            part = Part(place, job.plan.base, variants, deal(variants, _LANE_ROWS))
            if parts and not (
                np.array_equal(part.lanes.joins, parts[0].lanes.joins)
                and sum(other.n_rows for other in parts) + part.n_rows <= limit
            ):
                yield parts, slices
                parts, slices = [], []
            parts.append(part)
            slices.append(portion)
    if parts:
        yield parts, slices


def _cut(plan: Plan, limit: int) -> list[slice]:
    """Cut a tree's variants into portions of at most ``limit`` rows, if they are that short."""
    portions, begin, rows = [], 0, 0
    sizes = np.array([len(variant.twins) for variant in plan.variants])
    joins = np.array([variant.join for variant in plan.variants])
    for index, size in enumerate(sizes):
        # Variants that join at the same layer stay together where they fit: they fill lanes evenly.
        together = size if joins[index] == joins[index - 1] else min(limit, int(sizes[joins == joins[index]].sum()))
        if index > begin and rows + together > limit:
            portions.append(slice(begin, index))
            begin, rows = index, 0
        rows += size
    return [*portions, slice(begin, len(plan.variants))] if plan.variants else []
