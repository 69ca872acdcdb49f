"""A sparse autoencoder of 30 lines, what it is trained on, and where weights and curve are kept.

Used by examples/train_sae.py and examples/sae_features.py.
"""

from collections.abc import Callable, Sequence
from pydoc_data.topics import topics

import torch

import lazycache as lc
from lazycache.feed import Norm

SITE = "resid_out_3"
TEXT = "token NOT IN ('[CLS]', '[SEP]')"  # these two would take features of their own
FEATURES, ACTIVE = 1536, 24


class SparseAutoencoder(torch.nn.Module):
    """Rebuilds a row from the few features that fit it best."""

    def __init__(self, units: int, features: int, active: int = ACTIVE) -> None:
        super().__init__()
        self.active = active
        self.encoder = torch.nn.Linear(units, features)
        self.decoder = torch.nn.Linear(features, units)
        with torch.no_grad():
            self.encoder.bias.zero_()
            self.decoder.weight.copy_(torch.nn.functional.normalize(self.encoder.weight.T, dim=0))

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [n, features]: of each row the `active` greatest, all others 0."""
        found = self.encoder(rows - self.decoder.bias).relu()
        best = found.topk(self.active, dim=-1)
        return torch.zeros_like(found).scatter(-1, best.indices, best.values)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows, rebuilt."""
        rebuilt: torch.Tensor = self.decoder(self.encode(rows))
        return rebuilt


def capture(folder: str, pages: int | None) -> lc.ActivationCache:
    """Store a layer of MiniLM over the language reference of Python; once."""
    model, tokenizer = lc.demo_model()
    pieces = [text for page in sorted(topics)[:pages] for text in topics[page].split("\n\n")]
    texts = [text for text in pieces if text.strip()]
    return lc.extract(model, texts, folder, SITE, tokenizer=tokenizer, max_length=128)


def store(cache: lc.ActivationCache, sae: SparseAutoencoder, norm: Norm) -> None:
    """Keep the weights in the dataset, as values beside its sites."""
    cache["sae"], cache["sae_norm"] = dict(sae.state_dict()), norm.tensors()
    cache.persist("sae", "sae_norm")


def encoder(cache: lc.ActivationCache) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the features [n, features] of rows, from the weights in the dataset."""
    weights, norm = cache["sae"], Norm.from_tensors(cache["sae_norm"])
    features, units = weights["encoder.weight"].shape
    sae = SparseAutoencoder(units, features)
    sae.load_state_dict(weights)
    return lambda rows: sae.encode(norm.apply(rows)).to(torch.bfloat16)


def draw(losses: Sequence[float], picture: str, *, mean: float) -> None:
    """Save the curve of the losses, beside what saying always the mean would leave."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, linewidth=0.8, label="autoencoder")
    axes.axhline(mean, color="grey", linestyle="--", label="the mean row alone")
    axes.set(xlabel="step", ylabel="share of squared length not rebuilt", ylim=(0, 1))
    axes.set_title(f"Sparse autoencoder of {SITE}: {losses[-1]:.3f} after {len(losses):,} steps")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
