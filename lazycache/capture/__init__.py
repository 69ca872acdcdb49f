"""Hooks on a torch model give named tensors: sites, architectures, hooks, selection, extract."""
