"""What is computed of rows, as steps over values that are read: held once, evaluated per block.

A node is one step. Nodes are shared where values are used several times, so an expression costs
its steps and not the paths through them. It may be of any length, since nothing here recurses.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lazycache.errors import LazycacheError


class Leaf(Protocol):
    """What a program begins with: rows that are read, or a value that all rows share."""

    @property
    def key(self) -> object:
        """Leaves of one key have the same values: they are read once per block."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A function of leaves and other nodes."""

    function: Callable[..., torch.Tensor]
    """What is computed: of [n, *row] of each argument that has rows, [n, *result]."""
    args: tuple[Leaf | Node, ...]
    """Its arguments."""
    elementwise: bool = False
    """Whether each value follows from the values at its place alone."""
    foreign: bool = False
    """Whether the function is the user's, who may write into what it is given."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Node, (_pickled(self.function), self.args, self.elementwise, self.foreign)


def _pickled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function that another process finds.

    Raises:
        LazycacheError: it would not.
    """
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise LazycacheError(
            f"a lazy tensor computed by {function!r} is not pickled: {exc}. Use a function defined "
            "at the top of a module, which is found by its name, or pickle what .load() returns."
        ) from exc
    return function


def steps(root: Node) -> list[Node]:
    """Return the nodes of a program, each after its arguments."""
    found: list[Node] = []
    seen: set[int] = set()
    waiting: list[tuple[Node, bool]] = [(root, False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting.extend((arg, False) for arg in node.args if isinstance(arg, Node))
    return found


def leaves(nodes: list[Node]) -> Iterator[Leaf]:
    """Yield the leaves that nodes have, each once."""
    found = {a.key: a for node in nodes for a in node.args if not isinstance(a, Node)}
    return iter(found.values())


def evaluate(nodes: list[Node], value_of: Callable[[Any], Any]) -> torch.Tensor:
    """Return the value of the last of `steps`; `value_of` reads leaves.

    Cost: a value is kept until the last step that needs it, and dropped.
    """
    left = _uses(nodes)
    values: dict[object, Any] = {}
    result = torch.Tensor()
    for node in nodes:
        args = []
        for arg in node.args:
            key = _key(arg)
            if key not in values:
                values[key] = value_of(arg)
            left[key] -= 1
            value = values[key] if left[key] else values.pop(key)
            # a function of the user's may write to what it is given
            args.append(value.clone() if node.foreign else value)
        result = values[_key(node)] = node.function(*args)
    return result


def _uses(nodes: list[Node]) -> dict[object, int]:
    uses: dict[object, int] = {}
    for node in nodes:
        for arg in node.args:
            uses[_key(arg)] = uses.get(_key(arg), 0) + 1
    return uses


def _key(arg: Leaf | Node) -> object:
    return id(arg) if isinstance(arg, Node) else arg.key
