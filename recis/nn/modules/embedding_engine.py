"""`EmbeddingEngine`: many features, few tables, one exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recis._collectives import host_group
from recis.nn.modules._exchange import Found, Wanted, look_up
from recis.nn.modules.embedding import DynamicEmbedding, EmbeddingOption, Rows, combine, rows_of
from recis.ragged.tensor import RaggedTensor
from recis.store import Store


@dataclass
class _Part:
    """Features of one table that are looked up and combined as one."""

    table: str
    option: EmbeddingOption
    features: list[str] = field(default_factory=list)


class EmbeddingEngine(torch.nn.Module):
    """Looks up all features of a batch at once.

    Features whose options agree (`EmbeddingOption.coalesced_info`) share one table, in which the
    ids of each `shared_name` are apart; and all tables share the collectives of an exchange. The
    workers of a group call it equally often, each for its own batch, which may be empty or lack
    features: an `ExchangeError` if not, or if one is lost. Backward passes count, too: a batch to
    learn from has at least one feature that does, be it without rows.

    Args:
        emb_options: by feature.
        pg: the process group; None, that of the options, or all workers.
        coalesce: whether features share tables. Their ids are then in [0, 2**52); otherwise each
            `shared_name` has a table of its own, of any int64 ids.
        store: where rows go that memory has no room for; each worker has its own.
        device_bytes: how many bytes of rows of each table their GPU holds, if they are in a store.

    Raises:
        ValueError: options of one `shared_name` differ in more than how ids are combined, or
            those of one table in their device.

    Example:
        >>> engine = EmbeddingEngine(
        ...     {
        ...         "user": EmbeddingOption(embedding_dim=4, shared_name="engine_users"),
        ...         "items": EmbeddingOption(embedding_dim=4, shared_name="engine_items"),
        ...     }
        ... )
        >>> ids = {"user": torch.tensor([[1], [2]]), "items": torch.tensor([[1, 2], [3, 4]])}
        >>> {name: tuple(each.shape) for name, each in engine(ids).items()}
        {'user': (2, 4), 'items': (2, 4)}
    """

    def __init__(
        self,
        emb_options: Mapping[str, EmbeddingOption],
        pg: dist.ProcessGroup | None = None,
        *,
        coalesce: bool = True,
        store: Store | None = None,
        device_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._options = dict(emb_options)
        self._group = host_group(_group_of(self._options.values(), pg))
        self._parts = _parts_of(self._options, coalesce)
        self._tables = torch.nn.ModuleDict(
            {
                name: DynamicEmbedding(option, self._group, store=store, device_bytes=device_bytes)
                for name, option in _tables_of(self._options, coalesce).items()
            }
        )

    def forward(self, input_features: Mapping[str, Any]) -> dict[str, Any]:
        """Embeddings of the features that have options; others pass through.

        Ragged ones pass as dense tensors, but for bytes (int8), which stay as they are.

        Args:
            input_features: by name. Ids as `DynamicEmbedding` takes them: of TorchRec's
                KeyedJaggedTensor, the JaggedTensors that its `to_dict()` gives.

        Returns:
            By name: `(..., embedding_dim)`. Of the combiner "tile", `(rows, tile_len, dim)` of
            ragged ids and `(rows, tile_len * dim)` of others.

        Raises:
            TypeError, ValueError: ids are unusable; the message names the feature, and nothing has
                changed.
            ExchangeError: a worker is lost, or does something else.
        """
        rows = {
            name: rows_of(ids, f"feature {name!r}: ids")
            for name, ids in input_features.items()
            if name in self._options
        }
        parts = [[name for name in part.features if name in rows] for part in self._parts]
        wanted = [
            Wanted(
                self._table(part).hashtable,
                _cat([self._encoded(part, name, rows[name]) for name in names]),
                part.option.admit_hook,
                part.option.trainable,
            )
            for part, names in zip(self._parts, parts, strict=True)
        ]
        out = {}
        for part, names, found in zip(
            self._parts, parts, look_up(wanted, self._group), strict=True
        ):
            out.update(self._combined(part, {name: rows[name] for name in names}, found))
        return {
            name: out[name].to(rows[name].device) if name in out else _dense(feature)
            for name, feature in input_features.items()
        }

    def _table(self, part: _Part) -> DynamicEmbedding:
        table = self._tables[part.table]
        assert isinstance(table, DynamicEmbedding)
        return table

    def _encoded(self, part: _Part, feature: str, rows: Rows) -> Tensor:
        children = self._table(part).hashtable.children_info()
        try:
            return children.encode(rows.ids, self._options[feature].shared_name)
        except ValueError as error:
            raise ValueError(
                f"feature {feature!r}: {error}; for other ids make the engine with coalesce=False"
            ) from None

    def _combined(self, part: _Part, rows: dict[str, Rows], found: Found) -> dict[str, Tensor]:
        """The features of a part by name. Those that are summed or averaged are so at once."""
        if not rows:
            return {}
        begins = [0]
        for each in rows.values():
            begins.append(begins[-1] + len(each.ids))
        if part.option.combiner == "tile":
            out = {}
            for begin, end, (name, each) in zip(begins, begins[1:], rows.items(), strict=False):
                of_feature = found._replace(inverse=found.inverse[begin:end])
                tiled = combine(each, of_feature, self._options[name], each.weight)
                out[name] = tiled if each.ragged else tiled.flatten(1)
            return out
        weight = None
        if any(each.weight is not None for each in rows.values()):
            weight = torch.cat([_weight_of(each) for each in rows.values()])
        offsets = torch.cat(
            [torch.zeros(1, dtype=torch.int64)]
            + [each.offsets[1:] + begin for begin, each in zip(begins, rows.values(), strict=False)]
        )
        first = next(iter(rows.values()))
        merged = first._replace(offsets=offsets)
        pooled = combine(merged, found, part.option, weight)
        split = pooled.split([len(each.offsets) - 1 for each in rows.values()])
        return {
            name: of_feature.view(*each.shape, pooled.shape[-1])
            for (name, each), of_feature in zip(rows.items(), split, strict=True)
        }


def _group_of(
    options: Iterable[EmbeddingOption], pg: dist.ProcessGroup | None
) -> dist.ProcessGroup | None:
    groups = {option.pg for option in options}
    if pg is None and len(groups) > 1:
        raise ValueError("the options of an EmbeddingEngine name different process groups")
    return pg if pg is not None or not groups else groups.pop()


def _tables_of(options: dict[str, EmbeddingOption], coalesce: bool) -> dict[str, EmbeddingOption]:
    """The options of the tables by name, each with the shared names of its features as children."""
    sharing: dict[str, list[EmbeddingOption]] = {}
    infos: dict[str, str] = {}  # by shared name
    for feature, option in options.items():
        shared, info = option.shared_name, option.coalesced_info()
        if infos.setdefault(shared, info) != info:
            raise ValueError(
                f"feature {feature!r}: the options of another with the shared_name {shared!r} "
                f"make another table than {info}"
            )
        members = sharing.setdefault(_table_name(option, coalesce), [])
        if members and members[0].coalesced_info() != info:
            raise ValueError(
                f"feature {feature!r}: on {option.device}, but the features it would share a table "
                f"with are on {members[0].device}: put them on one device, or take coalesce=False"
            )
        members.append(option)
    return {
        name: replace(
            members[0],
            shared_name=name,
            children=list(dict.fromkeys(option.shared_name for option in members)),
            coalesced=coalesce,
        )
        for name, members in sharing.items()
    }


def _parts_of(options: dict[str, EmbeddingOption], coalesce: bool) -> list[_Part]:
    """In an order that every worker finds."""
    parts: dict[tuple[str, str], _Part] = {}
    for feature, option in options.items():
        name = _table_name(option, coalesce)
        key = (name, option.runtime_info())
        parts.setdefault(key, _Part(name, option)).features.append(feature)
    return [parts[key] for key in sorted(parts)]


def _table_name(option: EmbeddingOption, coalesce: bool) -> str:
    if not coalesce:
        return option.shared_name
    # Wherever it lives: workers have GPUs of their own, and what is saved comes back to others.
    info = replace(option, device="cpu").coalesced_info()
    return f"CoalescedHashtable_{hashlib.sha256(info.encode()).hexdigest()}"


def _cat(ids: list[Tensor]) -> Tensor:
    return torch.cat(ids) if ids else torch.empty(0, dtype=torch.int64)


def _weight_of(rows: Rows) -> Tensor:
    return torch.ones(len(rows.ids)) if rows.weight is None else rows.weight.reshape(-1).cpu()


def _dense(feature: Any) -> Any:
    ragged = isinstance(feature, RaggedTensor) and feature.dtype != torch.int8
    return feature.to_dense() if ragged else feature
