"""Any torch module can be captured by module path; without tokens a row is an example.

Run: python examples/any_network.py [FOLDER]
"""

import sys
import tempfile

import torch
from torch import nn

import lazycache as lc


def main(folder: str) -> None:
    """Store two layers of a small CNN over random images, and read one unit back."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)
    ).eval()
    with torch.no_grad(), lc.capture(network, folder, ["0", "3"]) as run:
        for step in range(4):
            run.annotate(batch=[step] * 8)
            network(torch.randn(8, 1, 28, 28))

    cache = lc.open(folder)
    print(cache["0:out"])  # (32 examples, 4 channels, 26, 26)
    print(cache["3:out"][:, 7].load()[:4])  # unit 7 of the first examples
    cache.sql(
        'SELECT batch, avg(unit("3:out", 7)) FROM examples GROUP BY batch ORDER BY batch'
    ).show()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
