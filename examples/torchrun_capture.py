"""Capture on several processes at once into one dataset.

Run: torchrun --nproc-per-node 2 examples/torchrun_capture.py [FOLDER]   (or plain python: one
process; needs the extra `demo`). On GPUs give each process its own device and use the backend nccl.
"""

import os
import sys
import tempfile

import torch
from torch import distributed

import lazycache as lc

SENTENCES = [
    "The cat sleeps on the sofa.",
    "A dog barks at night.",
    "Paris is in France.",
    "Rome has seven hills.",
    "Tokyo is never quiet.",
]


def main(folder: str) -> None:
    """Each process takes every other sentence; rank 0 seals the run when all are done."""
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        torch.set_num_threads(1)
    grouped = distributed.is_initialized()
    rank = distributed.get_rank() if grouped else 0
    share = SENTENCES[rank :: distributed.get_world_size() if grouped else 1]

    model, tokenizer = lc.demo_model()
    with torch.no_grad(), lc.capture(model, folder, "resid_out_*", tokenizer=tokenizer) as run:
        for text in share:
            run.annotate(text=[text], rank=[rank])
            model(**tokenizer([text], return_tensors="pt"))
        run.seal()

    if rank == 0:  # behind the block all processes have committed
        cache = lc.open(folder)
        print(cache["resid_out_5"])
        texts = cache.sql("SELECT text FROM examples ORDER BY example").fetchall()
        print("in the order of the corpus:", [text for (text,) in texts] == SENTENCES)
        cache.close()
    if grouped:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
