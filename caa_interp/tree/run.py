"""Running a tree: which path, in which portions, and the check that both paths agree."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import n_layers, steered, takes_tree_masks
from caa_interp.tree.branches import Branch, Path, TreeResult
from caa_interp.tree.passes import Base, run_base, run_variants
from caa_interp.tree.plain import run_plain
from caa_interp.tree.plan import Plan, make_plan
from caa_interp.tree.prefix import Prefix, shared_length
from caa_interp.tree.readout import divergences_of, log_probs_of

# Largest difference of a log-probability, in nats, and of the residual stream relative to its size, that
# rounding explains (models take their softmax in float32 at most); a wrong mask is off by much more.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.float16: 0.2, torch.bfloat16: 0.5}
# Steered rows of one portion: longer matrix products gain little.
_ROWS_AT_ONCE = 1024
# Unsteered rows of several trees run in one pass, up to this many rows: fewer, larger matrix products. Trees of
# similar size are grouped out of a window of this many; trees with steered rows come in windows of two.
_BASE_ROWS_AT_ONCE = 768
_TREES_AT_ONCE = 16
_SHARE_OF_FREE_MEMORY = 0.25

_agrees: weakref.WeakKeyDictionary[Any, dict[bool, bool]] = weakref.WeakKeyDictionary()


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
        ``"tree"`` or ``"plain"``; default: the tree where the model takes its mask. A model's first tree is compared
        with the plain path; if they differ, the plain path is used from then on, with one warning.

    Yields
    ------
    TreeResult
        Log-probabilities and residual streams of each tree, in the order of its branches.
    """
    waiting = (_checked(model, branches) for branches in trees)
    prefix = Prefix()
    for first in waiting:
        n_beside = 2 if any(branch.applied for branch in first) else _TREES_AT_ONCE
        window = [first, *islice(waiting, n_beside - 1)]
        chosen = _path(model, window[0], path)
        if chosen == "tree":
            prefix = prefix.fitted_to(model, window)
            results = _run_trees(model, window, list(layers), prefix)
        else:
            results = [run_plain(model, branches, list(layers)) for branches in window]
        yield from results


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


def _path(model: Any, branches: Sequence[Branch], path: Path | None) -> Path:
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
    return "tree" if takes_tree_masks(model) and _paths_agree(model, branches) else "plain"


class _Job:
    """One tree while it runs: its plan, what is asked of which rows, and the answers so far."""

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
        asked = len(self.tokens) + len(self.compared.branch)
        self.stop = n_layers(model) if asked else max(self.read_layers | self.join_layers, default=0) + 1
        self.log_probs = torch.empty(len(self.tokens), dtype=torch.float64)
        self.divergences = torch.zeros(len(self.compared.branch), dtype=torch.float64)
        self.means = torch.zeros(len(branches), len(layers), int(model.cfg.d_model), dtype=torch.float64)

    def read(self, layer: int, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray) -> None:
        values = residual[torch.as_tensor(rows[mine], device=residual.device)].double().cpu()
        scaled = values * torch.as_tensor(self.weights[mine])[:, None]
        self.means[:, self.layers.index(layer)].index_add_(0, torch.as_tensor(self.reads.branch[mine]), scaled)

    def answer(self, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray) -> None:
        if mine.any():
            found = log_probs_of(self.model, residual, rows[mine], self.tokens[mine])
            self.log_probs[torch.as_tensor(mine)] = found.double()

    def compare(self, residual: torch.Tensor, mine: np.ndarray, rows: np.ndarray, base: Base) -> None:
        if mine.any():
            unsteered, twins = base.residual[n_layers(self.model) - 1], self.compared.twin[mine] - base.n_before
            found = divergences_of(self.model, residual, rows[mine], unsteered, twins)
            self.divergences[torch.as_tensor(mine)] = found.double()

    def finish(self, base: Base, stop: int) -> TreeResult:
        """Collect the answers of the unsteered rows, run the steered ones, and return everything."""
        reads, targets, compared, plan = self.reads, self.targets, self.compared, self.plan
        for layer in self.read_layers:
            unsteered = (reads.variant < 0) | (layer < self.joins)
            self.read(layer, base.residual[layer], unsteered, reads.twin - base.n_before)
        self.answer(base.residual[stop - 1], targets.variant < 0, targets.twin - base.n_before)
        for portion in _portions(self.model, plan):
            variants = plan.variants[portion]
            offsets = np.zeros(len(plan.variants) + 1, dtype=np.int64)
            offsets[portion] = np.cumsum([0, *(len(variant.twins) for variant in variants)])[:-1]
            inside = np.zeros(len(plan.variants) + 1, dtype=bool)
            inside[portion] = True
            wanted = self.read_layers | {stop - 1}
            for layer, residual in run_variants(self.model, plan.base, base, variants, stop, wanted):
                if layer in self.read_layers:
                    mine = inside[reads.variant] & (layer >= self.joins)
                    self.read(layer, residual, mine, offsets[reads.variant] + reads.row)
                if layer == stop - 1:
                    self.answer(residual, inside[targets.variant], offsets[targets.variant] + targets.row)
                    self.compare(residual, inside[compared.variant], offsets[compared.variant] + compared.row, base)
        dtype = torch.float64 if base.residual[stop - 1].dtype == torch.float64 else torch.float32
        log_probs, divergences = (
            list(torch.split(values.to(dtype), sizes))
            for values, sizes in (
                (self.log_probs, [len(branch.targets) for branch in self.branches]),
                (self.divergences, [len(branch.compared) for branch in self.branches]),
            )
        )
        return TreeResult(log_probs, self.means.to(dtype), divergences, "tree")


def _run_trees(
    model: Any, trees: Sequence[Sequence[Branch]], layers: Sequence[int], prefix: Prefix
) -> list[TreeResult]:
    """Run the unsteered rows of trees of similar size side by side, and the steered ones tree by tree."""
    jobs = [_Job(model, branches, layers) for branches in trees]
    order = sorted(range(len(jobs)), key=lambda index: len(jobs[index].plan.base.tokens))
    results: dict[int, TreeResult] = {}
    while order:
        n_keys = len(jobs[order[-1]].plan.base.tokens)
        n_rows = n_keys - len(prefix.tokens)
        n_beside = max(1, min(_BASE_ROWS_AT_ONCE, _rows_that_fit(model, n_keys)) // n_rows)
        batch, order = order[-n_beside:], order[:-n_beside]
        stop = max(jobs[index].stop for index in batch)
        keep = {stop - 1}.union(*(jobs[index].read_layers | jobs[index].join_layers for index in batch))
        bases = run_base(model, [jobs[index].plan for index in batch], keep, stop, prefix)
        for index, base in zip(batch, bases, strict=True):
            results[index] = jobs[index].finish(base, stop)
    return [results[index] for index in range(len(jobs))]


def _rows_that_fit(model: Any, n_keys: int) -> int:
    """Number of rows, each with that many keys, whose attention scores and hidden units fit the free memory."""
    device = next(model.original_model.parameters()).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    # While a block computes, it holds several copies of scores and hidden units.
    row_bytes = 4 * (4 * int(model.cfg.n_heads) * n_keys + 4 * int(model.cfg.d_mlp))
    return max(1, int(_SHARE_OF_FREE_MEMORY * free) // row_bytes)


def _portions(model: Any, plan: Plan) -> list[slice]:
    """Cut the variants into portions that fit the memory."""
    limit = min(_ROWS_AT_ONCE, _rows_that_fit(model, len(plan.base.tokens) + _ROWS_AT_ONCE))
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


def _paths_agree(model: Any, branches: Sequence[Branch]) -> bool:
    """Compare both paths on the first branches that a model is given, and on the first edited ones; remember it."""
    kind = any(branch.applied for branch in branches)
    known = _agrees.setdefault(model, {})
    if kind not in known:
        edited = sorted((b for b in branches if b.applied), key=lambda b: b.join)
        some = [*[b for b in branches if not b.applied][:2], *edited[:1], *edited[-1:]]
        layers = sorted({0, n_layers(model) - 1, *(edit.layer for branch in some for edit in branch.edits)})
        probes = [
            replace(b, targets=b.targets or ((len(b.tokens) - 1, 0),), reads=b.reads or (len(b.tokens) - 1,))
            for b in some
        ]
        try:
            plain = run_plain(model, probes, layers)
            size = plain.residual.norm(dim=-1).clamp(min=1e-9)
            differences = []
            # With a prefix the tree takes another path through the model, so both are compared.
            for prefix in (Prefix(), Prefix.read(model, probes[0].tokens[: shared_length(probes)])):
                (tree,) = _run_trees(model, [probes], layers, prefix)
                both = zip(tree.log_probs, plain.log_probs, strict=True)
                differences += [float((a - b).abs().max()) for a, b in both]
                differences += [float(((tree.residual - plain.residual).norm(dim=-1) / size).max())]
            difference = float(np.max(differences))  # NaN if one of them is
            reason = f"they differ by {difference:.2g}"
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            difference, reason = float("inf"), f"the tree failed with {type(error).__name__}: {error}"
        known[kind] = difference <= _TOLERANCE[next(model.original_model.parameters()).dtype]
        if not known[kind]:
            warnings.warn(
                f"{type(model.original_model).__name__}: the token tree does not agree with plain forward passes "
                f"({reason}); plain passes are used, which are right and slower.",
                stacklevel=4,
            )
    return all(known.values())
