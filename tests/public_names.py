"""What the package offers by name, and what the docstring of each name says."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import lazycache as lc
from lazycache import errors, feed, pictures, query
from lazycache.cache.stacks.stack import LazyStack
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.integrations import ray

PACKAGES: dict[str, ModuleType] = {
    "lc": lc, "query": query, "feed": feed, "pictures": pictures, "ray": ray, "errors": errors,
}  # fmt: skip
TENSORS = (LazyTensor, RaggedTensor, LazyStack)
INTERNAL = "For this package"  # so says the docstring of what other modules of ours need

SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Cost|Example):", re.MULTILINE)
ELSEWHERE = re.compile(r"\b(?:as|see|see also)\s+`(?:(\w+)\.)?(\w+)`", re.IGNORECASE)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+):", re.MULTILINE)


@dataclass(frozen=True)
class Name:
    """A public name: a function, a class, or what a class has."""

    path: str
    """As it is written: `lc.open`, `LazyTensor.load`."""
    thing: Any
    """What it stands for; of a property its function."""

    @property
    def owner(self) -> str:
        """What is before the dot."""
        return self.path.split(".")[0]

    @cached_property
    def doc(self) -> str:
        """The docstring, without the indentation."""
        return inspect.getdoc(self.thing) or ""

    @cached_property
    def sections(self) -> dict[str, str]:
        """The text below each heading of the docstring."""
        parts = SECTION.split(self.doc)[1:]
        return dict(zip(parts[::2], parts[1::2], strict=True))

    @cached_property
    def arguments(self) -> list[str]:
        """What the caller hands over, as a docstring names it; of a function or a method."""
        if not (inspect.isfunction(self.thing) or inspect.ismethod(self.thing)):
            return []
        marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        known = inspect.signature(self.thing).parameters.items()
        return [marks.get(one.kind, "") + name for name, one in known if name != "self"]

    @property
    def documented(self) -> list[str]:
        """The arguments that the docstring describes, in its order."""
        return ENTRY.findall(self.sections.get("Args", ""))

    @property
    def elsewhere(self) -> list[tuple[str, str]]:
        """What the docstring refers to, "as `X.mean`": what is before the dot, and the name."""
        return ELSEWHERE.findall(self.doc.split("Example:")[0])


def of_packages() -> list[Name]:
    """Each name that a package lists, and each that its module defines where it lists none."""
    return [
        Name(f"{short}.{name}", getattr(package, name))
        for short, package in PACKAGES.items()
        for name in getattr(package, "__all__", None) or _defined(package)
        if _has_docstring(getattr(package, name))
    ]


def of_class(kind: type) -> list[Name]:
    """Methods and properties that a class of ours has, also from its parents in this package."""
    return [Name(f"{kind.__name__}.{name}", thing) for name, thing in _members(kind)]


def everything() -> list[Name]:
    """All public names: of packages, of the cache and its tensors, of what questions return."""
    names = of_packages()
    classes = {one.thing for one in names if inspect.isclass(one.thing)} | set(TENSORS)
    of_classes = [member for kind in sorted(classes, key=_by_name) for member in of_class(kind)]
    return [*names, *(Name(kind.__name__, kind) for kind in TENSORS), *of_classes]


def _has_docstring(thing: Any) -> bool:
    """Whether it is code of ours: not an alias of types."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _by_name(kind: type) -> str:
    return kind.__name__


def _defined(package: ModuleType) -> list[str]:
    own = {
        name: thing
        for name, thing in vars(package).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == package.__name__
    }
    # of the errors the tree: what else is in the module helps to say them
    return [name for name, thing in own.items() if package is not errors or inspect.isclass(thing)]


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for name in dir(kind):
        home = next(one for one in kind.__mro__ if name in vars(one))
        if name.startswith("_") or not home.__module__.startswith("lazycache"):
            continue
        thing = inspect.getattr_static(kind, name)
        described = isinstance(thing, property | cached_property) or inspect.isroutine(thing)
        if described and INTERNAL not in (inspect.getdoc(thing) or ""):
            yield name, getattr(kind, name)  # of a property itself
