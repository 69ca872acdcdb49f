"""Fork processes that capture, and kill them at random moments.

Run as a script: `capture_crasher.py FOLDER COUNT SEED`. Torch is imported once and forked, so that
a kill costs a fraction of a second. Everything that is captured follows from the batch number.
"""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from forking import import_what
from transformers import GPT2Config, GPT2Model

import lazycache as lc

SITES = ["embed", "resid_out_*", "mlp_act_1"]
BATCH = 4
COMMITS = (0, 0, 1, 2, 3, 5)
LONGEST_S = 0.2


def make_model():
    torch.set_num_threads(1)  # one thread: results are equal bit for bit in every process
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        vocab_size=97,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2Model(config).eval()


def make_batch(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 97, (BATCH, 24), generator=generator)
    lengths = torch.randint(1, 25, (BATCH,), generator=generator)
    mask = (torch.arange(24) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def capture(model, url: Path, *, batches: int | None = None) -> None:
    """Capture so many batches; None: without end."""
    # a queue and shards this small make every stage of writing happen many times a second
    with (
        torch.no_grad(),
        lc.capture(
            model, url, SITES, queue_bytes=1 << 17, shard_bytes=1 << 16, commit_seconds=0.03
        ) as run,
    ):
        for number in itertools.islice(itertools.count(), batches):
            run.annotate(batch=[number] * BATCH)
            model(**make_batch(number))


def wait_for_commits(url: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(url.glob("_log/*.json"))) < count and time.monotonic() < deadline:
        time.sleep(0.002)


def main(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    model = make_model()
    import_what(lambda: capture(model, folder / "first", batches=8))
    seen, started = os.pipe()
    for kill in range(count):
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            capture(model, folder / f"run{kill}")
            os._exit(1)
        os.read(seen, 1)
        # from before the dataset is created to some commits later, however fast the machine is
        wait_for_commits(folder / f"run{kill}", chance.choice(COMMITS))
        time.sleep(chance.uniform(0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # it ended by itself: an error, printed by it
            sys.exit(f"capture {kill} ended before it was killed: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
