"""Drafts become snapshots whole or not at all."""

import errno
import os
import threading

import pytest

from recis.snapshot import publish
from recis.snapshot.errors import SnapshotError
from recis.snapshot.manifest import Manifest
from recis.snapshot.publish import Draft, clean_drafts, newest, steps
from recis.snapshot.read import open_snapshot
from recis.snapshot.write import write_state


def save(root, step, value=1):
    with Draft(root, step) as draft:
        state = write_state(draft, "dense/value.state", value)
        return draft.publish(Manifest(step=step, tables={}, dense=(state,)))


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_what_was_saved_is_there(tmp_path):
    root = tmp_path / "new" / "folder"
    assert save(root, 3, {"lr": 0.1}) == f"{root}/step-000000000003"
    assert open_snapshot(root).dense("value") == {"lr": 0.1}
    assert (root / "latest").read_text() == "step-000000000003\n"
    assert sorted(os.listdir(root)) == ["FORMAT", "latest", "step-000000000003"]


def test_a_step_is_never_replaced(tmp_path):
    save(tmp_path, 3)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="step 3 already"):
        save(tmp_path, 3, 2)
    assert tree(tmp_path) == before


def test_one_of_many_at_once_wins(tmp_path):
    barrier, won, lost = threading.Barrier(8), [], []

    def run(number):
        with Draft(tmp_path, 5) as draft:
            state = write_state(draft, "dense/value.state", number)
            barrier.wait()
            try:
                draft.publish(Manifest(step=5, tables={}, dense=(state,)))
                won.append(number)
            except FileExistsError:
                lost.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert open_snapshot(tmp_path).dense("value") == won[0]
    assert sorted(os.listdir(tmp_path)) == ["FORMAT", "latest", "step-000000000005"]


def test_a_failure_anywhere_leaves_what_there_was(tmp_path, monkeypatch):
    """Every call that makes something durable fails once."""
    save(tmp_path, 0)
    before = tree(tmp_path)
    for name in ("fsync", "rename"):
        real, failures = getattr(os, name), 0
        while True:
            calls = 0

            def fail(*args, real=real, at=failures, **options):
                nonlocal calls
                calls += 1
                if calls == at + 1:
                    raise OSError(errno.ENOSPC, "no space", "somewhere")
                return real(*args, **options)

            monkeypatch.setattr(publish.os, name, fail)
            try:
                save(tmp_path, 1)
            except OSError as error:
                assert error.errno == errno.ENOSPC
            monkeypatch.undo()
            if calls <= failures:
                break
            published = tmp_path / "step-000000000001"
            if published.exists():  # only what comes after it failed: it is whole
                assert open_snapshot(tmp_path, strict=True).dense("value") == 1
                publish.shutil.rmtree(published)
                (tmp_path / "latest").write_text("step-000000000000\n")
            clean_drafts(tmp_path)
            assert tree(tmp_path) == before
            failures += 1
        assert failures > 0
        publish.shutil.rmtree(tmp_path / "step-000000000001")
        (tmp_path / "latest").write_text("step-000000000000\n")


def test_drafts_go_unless_they_are_in_use(tmp_path):
    save(tmp_path, 0)
    (tmp_path / ".tmp-step-000000000007-dead" / "sparse").mkdir(parents=True)
    (tmp_path / ".tmp-latest-dead").write_text("half")
    with Draft(tmp_path, 1) as draft:
        write_state(draft, "dense/value.state", 1)
        assert clean_drafts(tmp_path) == [".tmp-latest-dead", ".tmp-step-000000000007-dead"]
        assert len(os.listdir(tmp_path)) == 4
    assert sorted(os.listdir(tmp_path)) == ["FORMAT", "latest", "step-000000000000"]


def test_saving_and_cleaning_at_once(tmp_path, monkeypatch):
    """Whenever something is made durable, another process cleans up."""
    fsync = os.fsync

    def clean_and_sync(handle):
        if tmp_path.is_dir():
            clean_drafts(tmp_path)
        fsync(handle)

    monkeypatch.setattr(publish.os, "fsync", clean_and_sync)
    save(tmp_path, 1)
    assert sorted(os.listdir(tmp_path)) == ["FORMAT", "latest", "step-000000000001"]


def test_files_that_no_manifest_names_are_not_published(tmp_path):
    with Draft(tmp_path, 0) as draft:
        write_state(draft, "dense/value.state", 1)
        folder = draft.publish(Manifest(step=0, tables={}))
    assert [name for _, _, names in os.walk(folder) for name in sorted(names)] == [
        "MANIFEST.json",
        "MANIFEST.json.xxh3",
    ]


def test_the_newest_is_the_newest_that_is_whole(tmp_path):
    assert (newest(tmp_path), steps(tmp_path)) == (None, [])
    for step in (2, 10):
        save(tmp_path, step)
    (tmp_path / "latest").write_text("step-000000000077\n")
    assert newest(tmp_path) == 10
    (tmp_path / "step-000000000010/MANIFEST.json").write_text("{}")
    assert (newest(tmp_path), steps(tmp_path)) == (2, [2, 10])


def test_a_directory_of_a_later_format_is_let_be(tmp_path):
    (tmp_path / "FORMAT").write_text('{"format": "recis-snapshot", "major": 2}\n')
    with pytest.raises(SnapshotError, match="later recis"):
        save(tmp_path, 0)
    assert os.listdir(tmp_path) == ["FORMAT"]


def test_a_url_gets_its_manifest_last(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    uploaded = []
    real = type(memory).put_file
    monkeypatch.setattr(
        type(memory),
        "put_file",
        lambda self, path, target: (uploaded.append(target), real(self, path, target))[1],
    )
    try:
        save("memory://published", 4, "far")
        assert [target.endswith("/MANIFEST.json") for target in uploaded] == [False, False, True]
        assert open_snapshot("memory://published").dense("value") == "far"
        with pytest.raises(FileExistsError):
            save("memory://published", 4)
    finally:
        memory.rm("/published", recursive=True)
