"""Snapshots in an S3 bucket. Skipped unless `pip install 'moto[s3]' flask flask-cors s3fs` was run.

These are 130 MB of packages, which nothing else here needs.
"""

import os
import uuid

import pytest
import torch

from recis.nn import HashTable
from recis.serialize import Loader, Saver
from recis.snapshot.publish import steps

from .test_ckpt import chain, content, run, run_json, store

pytest.importorskip("s3fs")
pytest.importorskip("flask_cors")
server = pytest.importorskip("moto.server")

__all__ = ["chain", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("default")  # what those packages warn of is theirs


@pytest.fixture
def bucket(monkeypatch):
    """The URL of an empty bucket."""
    import boto3
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    endpoint = "http://{}:{}".format(*running.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"snapshots-{uuid.uuid4().hex}"  # the server remembers those of other tests
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}/run7"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_a_table_is_saved_and_loaded(bucket):
    table = HashTable([4], name="s3")
    table.insert(torch.arange(1000), torch.randn(1000, 4))
    saver = Saver(path=bucket, hashtables={"s3": table}, track=True)
    parent = saver.save(1)
    with pytest.raises(FileExistsError, match="step 1 already"):
        saver.save(1)
    table.insert(torch.arange(10), torch.zeros(10, 4))
    table.evict(torch.arange(990, 1000))
    Saver(path=bucket, hashtables={"s3": table}, parent=parent).save(2)
    expected = table(torch.arange(990))
    table.clear()
    assert Loader(bucket, hashtables={"s3": table}, strict=True).load() == 2
    assert len(table) == 990
    assert torch.equal(table(torch.arange(990)), expected)


def test_commands_take_the_url(bucket, store, chain, tmp_path):
    run("save", store, bucket)
    assert steps(bucket) == [12]
    assert run_json("inspect", bucket)["tables"]["users"]["rows"] == 600
    run("verify", bucket, "--level", "deep")
    assert run_json("cat", bucket, "users", "--ids", "5,99999")["missing"] == [99999]
    run("diff", store, bucket)
    run("load", bucket, tmp_path / "again")
    run("diff", store, tmp_path / "again")
    run("compact", chain, f"{bucket}/chain")
    assert content(f"{bucket}/chain") == content(chain)
    assert "local directory" in run("gc", bucket, "--keep", 1, code=2).stderr


def test_damage_is_named(bucket, store):
    import s3fs

    run("save", store, bucket)
    system = s3fs.S3FileSystem()
    (path,) = system.glob(f"{bucket}/step-000000000012/sparse/users/*")
    data = bytearray(system.cat_file(path))
    data[-1] ^= 1
    system.pipe_file(path, bytes(data))
    (problem,) = run_json("verify", bucket, code=1)["problems"]
    assert problem["path"].endswith(path.rpartition("/")[2])
    system.pipe_file(path, bytes(data[:-1]))
    run("verify", bucket, "--level", "quick", code=1)
    run("load", bucket, "again", code=1)
