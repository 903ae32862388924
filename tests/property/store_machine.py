"""The same operations on a table in a store, with commits, crashes and little memory."""

import math
import random
import shutil
from copy import deepcopy
from tempfile import mkdtemp

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from recis import Store
from recis.nn import AdmitHook

from .machine import TableAgainstDict
from .strategies import IDS, LAYOUTS, SEEDS, laid_out

HOT_BLOCKS = st.integers(1, 4)
# What a commit keeps: of the oracle, and of the machine.
CONTENT = ("row_of", "freed", "end", "records", "initial", "filter_hook")
PROGRESS = ("sightings", "global_step", "hyper", "slots", "update", "calls", "steps", "accumulated")


class TableInStoreAgainstDict(TableAgainstDict):
    """With one to four hot blocks, and as many on a device, it is the same table through crashes.

    Who trains keeps in the state what a trainer would; the oracle starts again from a copy.
    """

    live_views = False

    def __init__(self):
        super().__init__()
        self.path = mkdtemp(prefix="recis-store-")
        self.store = None

    def started(self):
        self.commit()

    def teardown(self):
        if self.store:
            self.drop()
        shutil.rmtree(self.path)

    def make_table(self, hot_blocks=1):
        self.store = Store(self.path, hot_bytes=self.hot_bytes(hot_blocks))
        self.device_bytes = None if self.device == "cpu" else self.hot_bytes(5 - hot_blocks)
        return self.table_in_store()

    def table_in_store(self):
        return super().make_table(store=self.store, device_bytes=self.device_bytes)

    def hot_bytes(self, blocks):
        """Of blocks as wide as they can become in this machine."""
        elements = math.prod(self.options["embedding_shape"])
        number = 8 if self.dtype.itemsize == 8 else 4
        late, filters, padding = 36, 16, 32
        record = elements * (self.dtype.itemsize + 3 * number) + late + filters + padding
        return blocks * self.options["block_size"] * record

    def drop(self):
        """What a crash leaves of the process."""
        self.pending.clear()
        self.table = self.optimizer = None
        self.store.close()

    # ---- what only a store does ----

    @rule()
    def commit(self):
        optimizer = self.optimizer and self.optimizer.state_dict()
        state = {"optimizer": optimizer, "filter": self.filter.state_dict()}
        self.store.commit(self.global_step, state)
        self.optimizer_class = type(self.optimizer)
        content = {name: getattr(self.oracle, name) for name in CONTENT}
        progress = {name: getattr(self, name) for name in PROGRESS if hasattr(self, name)}
        self.committed = deepcopy((content, progress))

    @rule(hot_blocks=HOT_BLOCKS)
    def crash(self, hot_blocks):
        self.drop()
        self.table = self.make_table(hot_blocks)
        content, progress = deepcopy(self.committed)
        vars(self.oracle).update(content)
        vars(self).update(progress)
        self.oracle.gradient.clear()
        self.oracle.counters.clear()
        self.recovered = len(self.oracle.row_of)
        assert self.store.step == self.global_step
        state = self.store.state()
        self.filter.load_state_dict(state["filter"])
        if state["optimizer"]:
            self.resume(self.optimizer_class, state["optimizer"])

    @rule(hot_blocks=HOT_BLOCKS)
    def close_and_open_again(self, hot_blocks):
        self.commit()
        self.crash(hot_blocks)

    @rule()
    def make_the_table_again(self):
        """As a notebook does: the same name in a store that is still open."""
        optimizer, self.optimizer = self.optimizer, None
        self.pending.clear()
        self.table = None
        state = optimizer and optimizer.state_dict()
        optimizer_class = type(optimizer)
        del optimizer
        self.table = self.table_in_store()
        if state:
            self.resume(optimizer_class, state)

    def resume(self, optimizer_class, state):
        self.optimizer = optimizer_class({self.name: self.table.table}, **self.hyper)
        self.optimizer.load_state_dict(state)

    @precondition(lambda self: self.oracle.row_of)
    @rule(seed=SEEDS, with_grad=st.booleans())
    def look_all_up(self, seed, with_grad):
        ids = self.oracle.ids()
        random.Random(seed).shuffle(ids)
        self.look_up(ids, "flat", AdmitHook("ReadOnly"), with_grad)

    @rule(ids=IDS, layout=LAYOUTS)
    def prefetch(self, ids, layout):
        self.table.prefetch(laid_out(ids, layout))

    # ---- what must hold after each of these ----

    def counters_agree(self):
        super().counters_agree()
        assert self.store.stats()["hot_bytes"] == self.table.stats()["hot_bytes"]
        assert self.table.stats()["hot_bytes"] <= self.hot_bytes(4)
