"""Buckets as obstore opens them: for what :mod:`pyarrow.fs` cannot do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from obstore.store import GCSStore, ObjectStore, S3Store
from pyarrow import fs


def opened(
    uri: str, filesystem: fs.FileSystem, patience_s: float
) -> tuple[ObjectStore, str] | None:
    """The bucket of ``uri`` and the key in it; None where it lies in no such store.

    Args:
        uri: ``s3://…`` with the options that ``pyarrow.fs`` reads, or ``gs://…``.
        filesystem: what ``pyarrow.fs`` opened it as.
        patience_s: for how long a call that is refused is made again.
    """
    address = urlsplit(uri)
    options = {key: values[-1] for key, values in parse_qs(address.query).items()}
    key = unquote(address.path).strip("/")
    if address.scheme == "s3":
        # Where the URI names no region, that other client has asked the bucket.
        region = options.get("region") or getattr(filesystem, "region", None)
        return _s3(address.netloc, {**options, "region": region}, patience_s), key
    if address.scheme in ("gs", "gcs"):
        return GCSStore(address.netloc), key
    return None


def _s3(bucket: str, options: dict[str, str | None], patience_s: float) -> S3Store:
    retries = {"retry_timeout": timedelta(seconds=patience_s)}
    settings: dict[str, Any] = {"retry_config": retries}
    scheme = options.get("scheme", "https")
    if endpoint := options.get("endpoint_override"):
        settings["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        settings["client_options"] = {"allow_http": settings["endpoint"].startswith("http://")}
    if region := options.get("region"):
        settings["region"] = region
    return S3Store(bucket, **settings)
