"""Train a sparse autoencoder on stored activations. Killed and run again, it goes on where it was.

Run: python examples/train_sae.py [FOLDER [PICTURE]]     (needs the extra `examples`; a minute)
"""

import sys
import tempfile
from pathlib import Path

import torch
from sae_model import FEATURES, SITE, TEXT, SparseAutoencoder, capture, draw, store

import lazycache as lc
from lazycache.feed import Loader


def train(
    loader: Loader, sae: SparseAutoencoder, path: Path, *, epochs: int, every: int
) -> list[float]:
    """Return the loss of each step: the share of the squared length that is not rebuilt."""
    adam = torch.optim.Adam(sae.parameters(), lr=2e-3)
    losses: list[float] = []
    if path.exists():
        state = torch.load(path, weights_only=True)
        sae.load_state_dict(state["sae"])
        adam.load_state_dict(state["adam"])
        loader.load_state_dict(state["loader"])
        losses = state["losses"]

    def keep() -> None:  # a kill in between leaves the last one
        parts = {"sae": sae, "adam": adam, "loader": loader}
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "losses": losses}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    while loader.epoch < epochs:
        for rows in loader:
            loss = (sae(rows) - rows).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
            if len(losses) % every == 0:
                print(f"epoch {loader.epoch}, step {len(losses)}: {losses[-1]:.4f}", flush=True)
                keep()
    keep()
    return losses


def main(
    folder: str,
    picture: str | None = None,
    *,
    pages: int | None = None,
    features: int = FEATURES,
    epochs: int = 5,
    every: int = 100,
) -> list[float]:
    """Capture, train, and keep the weights in the dataset as `sae`; return the losses."""
    torch.manual_seed(0)
    x = capture(folder, pages)[SITE].where(TEXT).rows
    print(x)
    sae = SparseAutoencoder(x.shape[-1], features)
    with x.loader(1024, norm="scale") as loader:  # rows are then as long as their units are many
        mean = loader.norm.apply(x.mean("rows").float())
        sae.decoder.bias.data.copy_(mean)
        losses = train(loader, sae, Path(f"{folder}.sae.pt"), epochs=epochs, every=every)
        store(lc.open(folder), sae, loader.norm)
    if picture is not None:
        draw(losses, picture, mean=1 - float(mean.square().mean()))
    print(f"{sum(losses[-50:]) / len(losses[-50:]):.4f} of the squared length is not rebuilt")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:] or [tempfile.mkdtemp()])
