"""Whether sites may be added to the rows of a run: the same model, read the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lazycache.capture.corpus.provenance import differences, model_differences
from lazycache.catalog.run_info import section
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.stored_examples import StoredExamples
from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError, nearest
from lazycache.storage.store import Store
from lazycache.types import DECODER_TOKENS, TOKENS, RunInfo

ADDS_TO = "adds_to"
"""Key of the description of an addition: the run whose rows it has values for."""

_NAMED = 3
"""Sites that the name of an addition lists."""

_SAME = ("positions", "where", "max_length", "batches", "corpus", "first_example")
"""What an addition shares with its run."""


def run_of(snapshot: Snapshot, run: str, *, url: str) -> RunInfo:
    """Return a run that may have rows.

    Raises:
        CaptureError: there is none of that name; names the nearest.
    """
    found = snapshot.runs.get(run)
    if found is None:
        raise CaptureError(
            f"{url} has no run {run!r} to whose rows something could be added. "
            f"{nearest(run, snapshot.runs)}"
        )
    return found


def stored_examples(store: Store, snapshot: Snapshot, run: str) -> StoredExamples:
    """Return the examples of a run whose model can be run on them again.

    Raises:
        CaptureError: rows of a decoder, or of generated text.
    """
    if any(file.run == run for file in snapshot.table_files(DECODER_TOKENS)):
        raise CaptureError(
            f"Run {run!r} is of an encoder-decoder model, whose decoder would need its tokens "
            "again: capture the site in another run."
        )
    own = [file for file in snapshot.table_files(TOKENS) if file.run == run]
    if any("step" in file.ref.columns for file in own):
        raise CaptureError(
            f"Run {run!r} is of generated text: its rows come of many forward passes. Extract the "
            "finished texts to another run instead."
        )
    return StoredExamples(store, snapshot, run=run)


def addition_name(run: str, sites: Iterable[str]) -> str:
    """Return under which name an addition is described, beside its run.

    Example:
        >>> addition_name("main", ["embed", "z_3"]), addition_name("main", map(str, range(99)))
        ('main+embed,z_3', 'main+0,+98:ab161a8a')
    """
    names = list(sites)
    if len(names) <= _NAMED:
        return f"{run}+{','.join(names)}"
    return f"{run}+{names[0]},+{len(names) - 1}:{crc32(','.join(names).encode()):08x}"


def describe_addition(
    run: str, info: Mapping[str, Any], details: Mapping[str, Any], *, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the provenance of sites that are added to a run, or say why they cannot be.

    Args:
        run: Name of the run.
        info: Its provenance.
        details: The provenance that a capture of these sites would have.
        given: What the caller said of the rows, which is the run's to say.

    Raises:
        CaptureError: another model, tokenizer or selection; a site that the run captured.

    Example:
        >>> said = {"sites": {"embed": "x"}, "positions": "last", "training": False}
        >>> new = {"sites": {"z_0": "y"}, "positions": "all", "training": False}
        >>> found = describe_addition("main", said, new, given={})
        >>> found["adds_to"], found["positions"]
        ('main', 'last')
    """
    if ADDS_TO in info:
        raise CaptureError(
            f"{run!r} is not a run but what was added to {info[ADDS_TO]!r}: give run="
            f"{info[ADDS_TO]!r}."
        )
    known = [name for name in details["sites"] if name in section(info, "sites")]
    if known:
        raise CaptureError(
            f"Run {run!r} has {', '.join(known[:5])} for all of its rows already. Add other sites, "
            "or capture these in another run: run='name'."
        )
    found = _model_differences(info, details)
    found += [
        f"{key} was {info[key]}, is {value}"
        for key, value in given.items()
        if key in info and info[key] != value
    ]
    if info.get("training"):
        found.append("training was True, is False (the model ran with dropout, if it has any)")
    if found:
        raise CaptureError(
            f"Nothing can be added to run {run!r}, which was captured differently: "
            f"{'; '.join(found)}. Use the model and selection that it was captured with, or "
            "capture the sites in another run: run='name'."
        )
    shared = {key: info[key] for key in _SAME if key in info}
    return {**details, **shared, "training": False, ADDS_TO: run}


def check_same_addition(known: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Refuse to continue an addition that was begun in another way.

    Raises:
        CaptureError: names what differs.

    Example:
        >>> check_same_addition({"dtype": None}, {"dtype": None})
    """
    found = differences(known, details)
    if found:
        raise CaptureError(
            f"These sites were added to a part of the rows in another way: {'; '.join(found)}. "
            "Continue as it was begun."
        )


def _model_differences(info: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """Say how the model differs; the tokenizer only if one was given: tokens may be stored."""
    model = dict(details.get("model") or {})
    if model.get("tokenizer") is None:
        model["tokenizer"] = section(info, "model").get("tokenizer")
    return model_differences(info, {**details, "model": model})
