"""What easyroutine's pipelines put beside activations: info, metadata, positions of targets."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.errors import SelectionError, SiteNotFoundError
from lazycache.mapping.cache_state import CacheState

MAPPING = "mapping_index"
"""Key of the columns of each target."""

_NOTE = "info"
"""Entry of the mapping that is no target: how columns were pooled."""


class Annotating(CacheState):
    """Sets and reads what goes with the values."""

    def add_with_info(self, key: str, value: Any, info: Any) -> None:
        """Set a value with a note about it, a `ValueWithInfo`: `.value()`, `.info()`.

        Args:
            key: Name of the value.
            value: Any value; one that is there already is replaced.
            info: The note, of any kind.

        Example:
            >>> import torch
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache()
            >>> cache.add_with_info("avg", torch.ones(2, 3), "batch, unit")
            >>> cache["avg"].info(), cache["avg"].shape
            ('batch, unit', torch.Size([2, 3]))
        """
        self._set(key, ValueWithInfo(value, info))

    def add_metadata(
        self,
        target_token_positions: Any,
        model_name: str,
        extraction_config: Any,
        interventions: Any = None,
    ) -> None:
        """Set the key `metadata`: a dict of the arguments, by their names.

        Args:
            target_token_positions: Which tokens were kept, in the words of easyroutine.
            model_name: Name of the model.
            extraction_config: What was extracted: any value.
            interventions: What was done to the model beside it, if anything.

        Example:
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache()
            >>> cache.add_metadata(["last"], "gpt2", {"extract_resid_out": True}, [])
            >>> cache["metadata"]["model_name"]
            'gpt2'
        """
        metadata = {
            "target_token_positions": target_token_positions,
            "model_name": model_name,
            "extraction_config": extraction_config,
            "interventions": interventions,
        }
        self._set("metadata", metadata)

    def map_to_dict(self, key: str) -> dict[str, Any]:
        """Return a value by target: its columns (dimension 1) that `mapping_index` names for each.

        A target of one column loses this dimension; no other is dropped, whatever its size. Of a
        list it gives a list for each target. A lazy value stays lazy.

        Raises:
            SiteNotFoundError: there is no such key, or no `mapping_index`.
            SelectionError: the value has no columns, or not those.

        Example:
            >>> import torch
            >>> from lazycache import ActivationCache
            >>> mapping = {"last": [2], "subject": [0, 1]}
            >>> cache = ActivationCache({"x": torch.ones(1, 3, 4), "mapping_index": mapping})
            >>> {target: tuple(x.shape) for target, x in cache.map_to_dict("x").items()}
            {'last': (1, 4), 'subject': (1, 2, 4)}
        """
        value, mapping = self[key], self._mapping()
        try:
            return {
                target: _columns(value, columns)
                for target, columns in mapping.items()
                if target != _NOTE
            }
        except (IndexError, TypeError) as exc:
            raise SelectionError(
                f"{key!r} has not got the columns of {MAPPING}, {dict(mapping)!r:.200}: {exc}"
            ) from exc

    def _mapping(self) -> Mapping[str, Any]:
        if MAPPING not in self:
            raise SiteNotFoundError(
                f"there is no {MAPPING!r}, which says the columns of each target: set "
                f"cache[{MAPPING!r}] = {{target: [columns]}}."
            )
        mapping = self[MAPPING]
        if isinstance(mapping, list) and mapping:  # of several batches
            mapping = mapping[0]
        if not isinstance(mapping, Mapping):
            raise SelectionError(
                f"{MAPPING!r} is {type(mapping).__name__}: it is to be a dict of target to columns."
            )
        return mapping

    def _set(self, key: str, value: Any) -> None:
        cast("MutableMapping[str, Any]", self)[key] = value


def _columns(value: Any, columns: Any) -> Any:
    if isinstance(value, ValueWithInfo):
        return _columns(value.value(), columns)
    if isinstance(value, (list, tuple)):
        return [_columns(item, columns) for item in value]
    if isinstance(columns, (list, tuple, range)):
        return value[:, columns[0] if len(columns) == 1 else list(columns)]
    return value[:, columns]
