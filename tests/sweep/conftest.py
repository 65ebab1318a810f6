import logging
import shutil
import tempfile
from collections.abc import Iterator
from uuid import uuid4

import boto3
import pytest
import ray
import torch
from moto.server import ThreadedMotoServer

from seqsweep.sweep.storage.bucket import BucketPath


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One local Ray for all tests, with two CPUs; its address, for drivers in processes of their own."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's socket paths have a limit
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Host and port of a server that speaks S3."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> BucketPath:
    """A study's place in a new bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    name = f"bucket-{uuid4().hex}"
    client = boto3.client("s3", endpoint_url=f"http://{object_store}", region_name="us-east-1")
    client.create_bucket(Bucket=name)
    options = f"endpoint_override={object_store}&scheme=http&region=us-east-1"
    return BucketPath(f"s3://{name}/studies?{options}") / "mine"
