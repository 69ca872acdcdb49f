"""Ray on two nodes of this machine: `ray_job.py FOLDER`. Run by `test_ray.py`.

What is seen is printed as JSON in the last line. Ray warns of many things of its own, so it has a
process of its own.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import ray
import torch
from dataset_helpers import content, ragged_corpus
from ray.cluster_utils import Cluster
from torch import nn

import lazycache as lc
from lazycache.integrations.ray import extract, to_ray_dataset

SITES = ["0", "1"]
NAMES = ["0:out", "1:out"]
COUNT = 60
DATA = [
    {"input_ids": ids, "label": "even" if n % 2 == 0 else "odd"}
    for n, ids in enumerate(ragged_corpus(COUNT))
]
OPTIONS = {"batch_size": 1, "progress": False}  # alone in its batch: equal bit for bit


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 6)).to(torch.bfloat16)


def fragile(folder):
    """A function that makes a model which kills its process at its 20th forward pass, once."""

    def make():
        model, calls = make_model(), []

        def count(*_):
            calls.append(1)
            if len(calls) != 20:
                return
            try:
                os.close(os.open(folder / "killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

        model.register_forward_pre_hook(count)
        return model

    return make


def read_back(url):
    """Rows through Ray against rows through us."""
    rows = to_ray_dataset(
        url, NAMES, where="label = 'odd'", columns=["token_id", "label"]
    ).take_all()
    cache = lc.open(url, where="label = 'odd'")
    same = {}
    for site in NAMES:
        mine = cache[site].rows
        found = {(row["example"], row["position"]): row[site] for row in rows}
        values = mine.load().float().numpy()  # Ray has no bfloat16
        keys = zip(mine.column("example").tolist(), mine.column("position").tolist(), strict=True)
        same[site] = all(
            np.array_equal(found[key], value) for key, value in zip(keys, values, strict=True)
        )
    return {"rows": len(rows), "expected": len(mine), "same": same, "names": sorted(rows[0])}


def main(folder):
    seen = {}
    lc.extract(make_model(), DATA, folder / "alone", SITES, **OPTIONS)
    seen["alone"] = content(lc.open(folder / "alone"))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        seen["nodes"] = len(ray.nodes())
        options = {**OPTIONS, "actors": 2, "block_items": 8}
        url = folder / "killed-once"
        data = ray.data.from_items(DATA).repartition(5)  # without ids, in several blocks
        seen["killed"] = content(extract(fragile(folder), data, url, SITES, **options))
        before = lc.open(url).snapshot.version
        again = extract(make_model(), DATA, url, SITES, **{**options, "actors": 1})
        seen["versions"] = [before, again.snapshot.version]
        seen["read"] = read_back(url)
        seen["kills"] = (folder / "killed").exists()
    finally:
        ray.shutdown()
        cluster.shutdown()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
