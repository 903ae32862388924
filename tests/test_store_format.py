"""A closed store read by nothing but py-lmdb and docs/format.md."""

import struct

import lmdb
import numpy as np
import pytest
import torch

from recis import Store, optim
from recis.nn import FilterHook
from recis.nn.initializers import NormalInitializer

from .helpers import bits, train


class Reader:
    """The last epoch of a store, as docs/format.md has it."""

    def __init__(self, path):
        environment = lmdb.open(str(path), max_dbs=4, readonly=True, lock=False)
        names = ("blocks", "ids", "live", "meta")
        bases = {
            name: environment.open_db(name.encode(), create=False, integerkey=name != "meta")
            for name in names
        }
        with environment.begin() as view:
            self.all = {name: dict(view.cursor(base)) for name, base in bases.items()}
        environment.close()
        *_, self.epoch, self.step = struct.unpack_from("<Qq", self.all["meta"][b"epochs"][-48:])

    def version(self, bytes):
        """Of the versions of a value, that of the epoch."""
        (count,) = struct.unpack_from("<Q", bytes, 8)
        versions = [struct.unpack_from("<QQ", bytes, 16 + 16 * i) for i in range(count)]
        at, found = 16 + 16 * count, b""
        for epoch, length in versions:
            found = bytes[at : at + length] if epoch <= self.epoch else found
            at += length
        return found

    def value(self, key):
        return self.version(self.all["meta"][b"value/" + key.encode()])

    def slots(self, table):
        """(name, dtype, shape, offset in a record) of each slot."""
        data, at, offset = self.value(f"table/{table}/schema"), 4, 0

        def text():
            nonlocal at
            (length,) = struct.unpack_from("<I", data, at)
            at += 4 + length
            return data[at - length : at].decode()

        for _ in range(struct.unpack_from("<I", data)[0]):
            name, dtype = text(), getattr(torch, text())
            (sizes,) = struct.unpack_from("<I", data, at)
            shape = struct.unpack_from(f"<{sizes}q", data, at + 4)
            at += 4 + 8 * sizes + 8
            offset = -(-offset // dtype.itemsize) * dtype.itemsize
            yield name, dtype, shape, offset
            offset += dtype.itemsize * int(np.prod(shape))

    def rows(self, table):
        """(id, row, record) of each live entry."""
        for key, liveness in self.all["live"].items():
            live = self.version(liveness)
            if not live or struct.unpack_from("<I", live)[0] != table:
                continue
            block = self.all["blocks"][key]
            magic, _, _, count, _, length = struct.unpack_from("<4sIIIQQ", block)
            assert (magic, len(block) % 4096) == (b"RCB1", 4080)
            for i in range(count):
                entry = block[64 + i * (24 + length) :][: 24 + length]
                if live[16 + i // 8] >> i % 8 & 1:
                    yield *struct.unpack_from("<qI", entry, 8), entry[24:]


@pytest.fixture
def store(make_table_in, tmp_path):
    """A closed store, and what was in its table when it was committed."""
    with Store(tmp_path / "store", hot_bytes=4096) as store:
        table = make_table_in(
            store,
            "users",
            [3],
            dtype=torch.bfloat16,
            initializer=NormalInitializer(),
            filter_hook=FilterHook("GlobalStepFilter"),
        )
        make_table_in(store, "others", [1])(torch.arange(5))
        optimizer = optim.SparseAdam({"users": table.table})
        for i in range(6):
            ids = torch.arange(i * 100 - 300, i * 100 + 50)
            train(table, optimizer, ids, torch.randn(len(ids), 3, dtype=torch.bfloat16))
            store.commit(i)
        table.evict(torch.arange(0, 20))
        store.commit(7)
        ids, rows = table.ids_map()
        slots = {slot.name(): slot.read(rows) for slot in table.slot_group().slots()}
        table(torch.arange(5000, 5500))  # not committed
    return tmp_path / "store", dict(zip(ids.tolist(), rows.tolist(), strict=True)), slots


def test_every_row_can_be_decoded_from_the_documented_bytes(store):
    path, row_of, slots = store
    reader = Reader(path)
    assert reader.step == 7
    numbers = {reader.value(f"table/{number}").decode(): number for number in (1, 2)}
    assert sorted(numbers) == ["others", "users"]
    found = sorted(reader.rows(numbers["users"]), key=lambda entry: entry[1])
    assert {id: row for id, row, _ in found} == row_of
    assert [slot[0] for slot in reader.slots(numbers["users"])] == list(slots)
    for name, dtype, shape, offset in reader.slots(numbers["users"]):
        size = dtype.itemsize * int(np.prod(shape))
        data = bytearray(b"".join(record[offset : offset + size] for _, _, record in found))
        assert bits(torch.frombuffer(data, dtype=dtype).view(-1, *shape)) == bits(slots[name]), name


def test_every_block_has_its_ids_and_no_block_is_left_over(store):
    path, _, _ = store
    reader = Reader(path)
    assert reader.all["blocks"].keys() == reader.all["ids"].keys()
    assert reader.all["live"].keys() <= reader.all["blocks"].keys()
    for key, block in reader.all["blocks"].items():
        _, _, table, count, sequence, length = struct.unpack_from("<4sIIIQQ", block)
        assert struct.pack("<Q", sequence) == key
        entries = [struct.unpack_from("<qI", block, 72 + i * (24 + length)) for i in range(count)]
        data = reader.all["ids"][key]
        assert struct.unpack_from("<II", data) == (table, count)
        ids = np.frombuffer(data, "<i8", count, 16)
        rows = np.frombuffer(data, "<u4", count, 16 + 8 * count)
        assert entries == list(zip(ids.tolist(), rows.tolist(), strict=True))
