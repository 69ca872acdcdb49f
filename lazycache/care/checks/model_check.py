"""Stored values beside what the model gives again: the same batches, the same rows, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.ragged_values import flat_values
from lazycache.capture.corpus.batching import CHECKSUM, Batch, plan_batches
from lazycache.capture.corpus.extract import run_batches
from lazycache.capture.corpus.provenance import describe_capture, model_differences
from lazycache.capture.corpus.same_run import stored_examples
from lazycache.capture.corpus.stored_corpus import StoredCorpus
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.resolve import resolve_sites
from lazycache.capture.values.convert import torch_dtype
from lazycache.care.checks.report import Compared, Findings, Problem
from lazycache.catalog.run_info import ADDS_TO, SITES, SUBSET, is_transformed, section
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.stored_examples import StoredExamples, Tokens
from lazycache.catalog.table_columns import column_by_example
from lazycache.errors import CaptureError, SiteNotFoundError
from lazycache.options import limits_of
from lazycache.progress import progress_bar
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, RAGGED, TOKENS, RowBatch, RunInfo, SiteBlock, SiteSpec

_ROUNDINGS = 16
"""Roundings of the largest value, in the stored dtype, by which other orders of sums differ."""

_LEAST = 1e-4
"""And this part of it in any dtype: that is how far kernels of different machines are apart."""


def compare(
    model: nn.Module,
    store: Store,
    snapshot: Snapshot,
    chosen: Sequence[SiteSpec],
    *,
    found: Findings,
    tokenizer: Any,
    count: int,
    seed: int,
    show: bool,
) -> list[Compared]:
    """Run `count` random examples of each run again, in their batches, and compare all sites.

    Values that differ by more than rounding are a problem; smaller differences, as another device
    or another kernel gives, are said in the result alone.

    Raises:
        CaptureError: no run can be compared with this model; says why.
    """
    if count < 1:
        raise CaptureError(f"k is {count}: give how many examples are run again, at least 1.")
    compared: list[Compared] = []
    reasons: list[str] = []
    stored = StoredSites(store, snapshot)
    try:
        for run in [run for run in snapshot.runs.values() if ADDS_TO not in run.info]:
            try:
                one = _Run(model, store, stored, run, chosen, found)
                compared += one.compare(tokenizer, count=count, seed=seed, show=show)
            except CaptureError as exc:
                reasons.append(f"run {run.name!r}: {exc}")
    finally:
        stored.close()
    if not compared:
        why = " ".join(reasons) or "There is no run with sites that a model gives."
        raise CaptureError(f"Nothing of {store.url} can be compared with this model. {why}")
    found.notes += reasons
    return compared


class _Run:
    """One run, and what is stored of it."""

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        stored: StoredSites,
        run: RunInfo,
        chosen: Sequence[SiteSpec],
        found: Findings,
    ) -> None:
        self._model, self._stored, self._run, self._found = model, stored, run, found
        snapshot = stored.snapshot
        self._examples = stored_examples(store, snapshot, run.name)
        self._corpus = StoredCorpus(
            self._examples,
            lengths=column_by_example(store, snapshot, run=run.name, column="length"),
            checksums=column_by_example(store, snapshot, run=run.name, column=CHECKSUM),
        )
        if not self._corpus.is_complete:
            raise CaptureError("not every token of its examples is stored")
        self._chosen = {spec.name for spec in chosen}
        added = [one for one in snapshot.runs.values() if one.info.get(ADDS_TO) == run.name]
        self._infos = [run.info, *(one.info for one in added)]

    def compare(self, tokenizer: Any, *, count: int, seed: int, show: bool) -> Iterator[Compared]:
        """Yield each site beside what the model gives."""
        generator = np.random.default_rng(seed)
        total = len(self._examples)
        picked = generator.choice(total, size=min(count, total), replace=False)
        wanted = set(self._examples.ids[picked].tolist())
        for info in self._infos:
            names = self._comparable(info)
            if not self._chosen.isdisjoint(names):
                yield from self._of(info, names, wanted, tokenizer=tokenizer, show=show)

    def _comparable(self, info: Mapping[str, Any]) -> list[str]:
        """Return the sites of a run, or of an addition, that a plain forward pass gives again."""
        names = []
        for name in section(info, SITES):
            spec = self._stored.snapshot.sites.get(name)
            why = None if spec is None else _why_not(info, spec)
            if spec is not None and why is None:
                names.append(name)
            elif why is not None and name in self._chosen:
                self._found.notes.append(f"{name} of run {self._run.name!r} is not compared: {why}")
        return names

    def _of(
        self,
        info: Mapping[str, Any],
        names: Sequence[str],
        wanted: set[int],
        *,
        tokenizer: Any,
        show: bool,
    ) -> Iterator[Compared]:
        try:
            points = resolve_sites(self._model, names).points
        except SiteNotFoundError as exc:
            raise CaptureError(f"this model lacks a site: {exc}") from exc
        self._check_model(info, points, tokenizer)
        # the others run too: patterns change the kernel of attention for all sites
        shown = [name for name in names if name in self._chosen]
        sink = _Comparing(self._stored, self._examples, wanted, shown)
        recorder = Recorder(
            self._model,
            points,
            sink,
            tokenizer=None,
            positions="all",
            dtype=torch_dtype(info.get("dtype")),
            columns=None,
            next_example=0,
            allow_empty=True,
            pool=info.get("pool"),
        )
        bar_of = progress_bar("run again", total=len(wanted), unit=" examples", show=show)
        with self._corpus, recorder, bar_of as bar:

            def annotate(*, example: Any = None, mask: Any = None, columns: Any = None) -> None:
                del columns  # those of the examples are stored
                recorder.annotate(example=example, mask=mask)
                bar.advance(len(wanted.intersection(example)))

            run_batches(
                self._model,
                self._batches(wanted),
                points=list(points.values()),
                annotate=annotate,
                progress=lambda _: None,
            )
        yield from self._judged(sink)

    def _batches(self, wanted: set[int]) -> Iterator[Batch]:
        """Give the batches in which the chosen examples were, as the run had them."""
        expected: dict[int, Tokens] = {}
        limits = limits_of(None, None, section(self._run.info, "batches"))
        for batch in plan_batches(self._corpus.items(expected), limits, in_order=True):
            expected.clear()
            if wanted.intersection(batch.examples):
                yield batch

    def _check_model(
        self, info: Mapping[str, Any], points: Mapping[str, Any], tokenizer: Any
    ) -> None:
        now = describe_capture(
            self._model, points, tokenizer=tokenizer, dtype=None, positions="all"
        )
        if tokenizer is None:
            known = section(info, "model").get("tokenizer")
            now["model"] = {**now["model"], "tokenizer": known}
        differences = model_differences(info, now)
        if differences:
            raise CaptureError(f"it was captured from another model: {'; '.join(differences)}")

    def _judged(self, sink: _Comparing) -> Iterator[Compared]:
        for name, one in sink.results.items():
            yield Compared(name, one.rows, one.equal, one.difference)
            if one.difference > one.room:
                what = (
                    f"values of run {self._run.name!r} differ from what the model gives by up to "
                    f"{one.difference:.3g}, more than rounding ({one.equal:,} of {one.rows:,} rows "
                    "have the same bits)"
                )
                advice = "compare with the very model and device of the run, or capture it again"
                self._found.add(Problem(what, advice, site=name))


def _why_not(info: Mapping[str, Any], spec: SiteSpec) -> str | None:
    """Say why a site cannot be compared; None if it can."""
    point = str(section(info, SITES).get(spec.name))
    if spec.table not in (TOKENS, EXAMPLES):
        return "its module is called several times in a pass"
    if ":grad" in point or info.get("training"):
        return "it is of a training step, which is not run again"
    if is_transformed(info, spec.name) or spec.name in section(info, SUBSET):
        return "a function or a choice of units made it, which the dataset does not hold"
    return None


class _Result:
    """What was found of one site."""

    def __init__(self) -> None:
        self.rows = self.equal = 0
        self.difference = self.room = 0.0


class _Comparing:
    """A sink that compares the rows of chosen examples with those that are stored."""

    def __init__(
        self,
        stored: StoredSites,
        examples: StoredExamples,
        wanted: set[int],
        names: Sequence[str],
    ) -> None:
        self._stored, self._examples, self._wanted = stored, examples, wanted
        self.results = {name: _Result() for name in names}

    def write(self, batch: RowBatch) -> None:
        """Compare one forward pass."""
        ids = np.asarray(batch.tables[EXAMPLES].columns["example"])
        for name in self.results.keys() & batch.sites.keys():
            block = batch.sites[name]
            table = batch.tables[block.table]
            mine = np.asarray(table.columns["example"])
            chosen = np.isin(mine, list(self._wanted))
            rows = self._rows(block.table, ids[np.isin(ids, list(self._wanted))])
            there = self._stored.reader.covered(name, rows)
            at = np.flatnonzero(chosen)
            if len(at) != len(rows):
                raise CaptureError("the model was run on other rows than those that are stored")
            self._compare(name, block, at[there], rows[there])

    def commit(self) -> int:
        """Nothing is written."""
        return self._stored.snapshot.version

    def _rows(self, table: str, ids: np.ndarray) -> np.ndarray:
        """Return the stored rows of examples, in the order of the batch."""
        at = self._examples.at(ids)
        places = self._examples.tokens if table == TOKENS else self._examples.examples
        spans = [np.arange(places.row[i], places.row[i] + places.count[i]) for i in at.tolist()]
        return np.concatenate([np.empty(0, np.int64), *spans])

    def _compare(self, name: str, block: SiteBlock, at: np.ndarray, rows: np.ndarray) -> None:
        if not len(rows):
            return
        spec, one = self._stored.sites[name], self.results[name]
        if spec.layout == RAGGED:
            values, widths = flat_values(self._stored.reader, spec, rows)
            known = torch.split(values, _sizes(widths, spec))
            assert block.widths is not None, "a ragged site has widths"
            whole = torch.split(block.values, _sizes(block.widths, spec))
            again = [whole[i] for i in at.tolist()]
        else:
            known = tuple(self._stored.reader.read(name, rows))
            again = list(block.values[torch.from_numpy(at)])
        for before, now in zip(known, again, strict=True):
            _note(one, before, now)


def _sizes(widths: np.ndarray, spec: SiteSpec) -> list[int]:
    units = int(np.prod([size for size in spec.shape if size != -1], dtype=np.int64))
    sizes: list[int] = (widths.astype(np.int64) * units).tolist()
    return sizes


def _note(one: _Result, before: torch.Tensor, now: torch.Tensor) -> None:
    """Count a row, and how far its values are apart."""
    one.rows += 1
    before, now = before.contiguous().reshape(-1), now.contiguous().reshape(-1)
    if before.dtype != now.dtype or before.numel() != now.numel():
        one.difference = float("inf")
        return
    if torch.equal(before.view(torch.uint8), now.view(torch.uint8)):
        one.equal += 1
        return
    known, again = before.double(), now.double()
    apart = (known - again).abs()
    same = (known == again) | (known.isnan() & again.isnan())
    apart = torch.where(same, 0.0, torch.where(apart.isfinite(), apart, float("inf")))
    one.difference = max(one.difference, float(apart.max()))
    rounding = torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
    largest = float(torch.where(known.isfinite(), known.abs(), 0.0).max())
    one.room = max(one.room, max(_ROUNDINGS * rounding, _LEAST) * largest)
