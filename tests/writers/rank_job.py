"""What one process of a torchrun job does; run by `test_torchrun.py`.

`torchrun ... rank_job.py FOLDER JOB...`. Each process writes what it has seen to
FOLDER/JOB-RANK.json. The job `example`, which is the first if it is one, runs the example.
"""

import json
import os
import runpy
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from dataset_helpers import content, gpt2, ragged_corpus
from torch import distributed

import lazycache as lc
from lazycache import run_place
from lazycache.errors import CommitConflictError

SITES = ["resid_out_*", "z_1", "head_out_1"]
DATA = ragged_corpus(41)
OPTIONS = {"batch_size": 4, "progress": False}


def own_loop(model, url, *, rank, size, **options):
    """One example per forward pass, as a DistributedSampler deals them."""
    with torch.no_grad(), lc.capture(model, url, SITES, **options) as run:
        for ids in DATA[rank::size]:
            model(torch.tensor([ids]))
        run.commit()
    return content(lc.open(url))


def extract(model, url, *, rank, size):
    """Replace what is there; the opened dataset is whole on every process."""
    return content(lc.extract(model, DATA, url, SITES, overwrite=True, **OPTIONS))


def together(model, url, *, rank, size):
    """One record for all, twice; what another commits of itself never begins."""
    found = []
    with (
        torch.no_grad(),
        lc.capture(model, url, SITES, commit="group", commit_bytes=1, commit_seconds=0.01) as run,
    ):
        for part in (DATA[:24], DATA[24:]):  # ids are those of the corpus: 24 divides
            for ids in part[rank::size]:
                model(torch.tensor([ids]))
            time.sleep(0.05)
            found.append(run.commit())
        run.seal()
    return {"versions": found, "content": content(lc.open(url))}


def failing(model, url, *, rank, size):
    """One process fails in the middle; the other must not wait for it, nor commit."""
    try:
        with torch.no_grad(), lc.capture(model, url, SITES, commit="group") as run:
            model(torch.tensor([DATA[rank]]))
            run.commit()
            model(torch.tensor([DATA[size + rank]]))
            if rank == 1:
                raise KeyError("mine")  # noqa: TRY301
    except (lc.CaptureError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def killed(model, url, *, rank, size):
    """One process ends without a word."""
    try:
        with torch.no_grad(), lc.capture(model, url, SITES, commit="group"):
            model(torch.tensor([DATA[rank]]))
            if rank == 1:
                time.sleep(0.2)
                os._exit(0)
    except lc.CaptureError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def different(model, url, *, rank, size):
    """The processes are given different corpora: shards, not the whole."""
    try:
        lc.extract(model, DATA[rank::size], url, SITES, **OPTIONS)
    except (lc.LazycacheError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def apart(model, url, *, rank, size):
    """Each process has a place of its own, as a folder that other machines do not see."""
    run_place.SEEN_SECONDS = 0.0
    try:
        own_loop(model, f"{url}-{rank}", rank=rank, size=size)
    except lc.CaptureError as error:
        return str(error)
    return "no error"


def unlike(model, url, *, rank, size):
    """The processes are to store different things in the place of what is there."""
    dtype = "float16" if rank else None
    try:
        lc.extract(model, DATA, url, SITES, overwrite=True, dtype=dtype, **OPTIONS)
    except CommitConflictError as error:
        return str(error)
    return "no error"


def changed(model, url, *, rank, size):
    """One process finds in its share that the corpus is another one now."""
    data = [*DATA[:3], [1, 2, 3], *DATA[4:9]]
    try:
        lc.extract(model, iter(data), url, SITES, **OPTIONS)
    except lc.CaptureError as error:
        return str(error)
    return "no error"


def sealed(model, url, *, rank, size):
    """A sealed run refuses more, on every process."""
    try:
        own_loop(model, url, rank=rank, size=size, resume=True)
    except lc.CaptureError as error:
        return str(error)
    return "no error"


def run_example(url):
    """Run the example as torchrun does, with a group of its own; what it prints is for the test."""
    example = Path(__file__).parents[2] / "examples/torchrun_capture.py"
    sys.argv = [str(example), str(url)]
    runpy.run_path(str(example), run_name="__main__")
    sys.stdout.flush()


def join(timeout):
    """Make the group of the jobs in torchrun's store, beside what the example's left there."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    distributed.init_process_group(
        "gloo",
        store=distributed.PrefixStore("jobs", distributed.TCPStore(*place, is_master=False)),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )


JOBS = {
    "loop": own_loop,
    "extract": extract,
    "together": together,
    "sealed": sealed,
    "apart": apart,
    "unlike": unlike,
    "changed": changed,
    "failing": failing,
    "killed": killed,
    "different": different,
}


def main(folder, *names):
    torch.set_num_threads(1)
    if names[0] == "example":
        run_example(folder / "example")
        names = names[1:]
    join(timedelta(seconds=60))
    rank, size = distributed.get_rank(), distributed.get_world_size()
    model = gpt2()
    for job in names:
        name, _, where = job.partition("@")
        started = time.monotonic()
        result = JOBS[name](model, folder / (where or name), rank=rank, size=size)
        seen = {"result": result, "seconds": time.monotonic() - started}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(seen))
    os._exit(0)  # a rank of a job that has failed on purpose waits for nobody


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
