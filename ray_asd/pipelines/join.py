"""Joining a cluster: each way in which it fails in one line, and none that waits without end."""

import logging
import os
import socket

import ray
from ray._common.usage import usage_lib
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup as token_setup
from ray._private.utils import check_version_info, compute_version_info
from ray.exceptions import AuthenticationError, RayError

from ray_asd.errors import BadInput
from ray_asd.pipelines import core_log

# A head that is up answers at once; a firewall may swallow what is sent to it.
_ANSWERS_S = 10.0

_FAULTS = (OSError, ValueError, RuntimeError, RayError)


def join(address: str) -> None:
    """Make this process a driver of the cluster at ``address``.

    Ray's own ``ray.init`` tries for a quarter of an hour where nobody answers, and for any reason
    says only that it did not connect. So what it needs is looked at first.

    Args:
        address: ``HOST:PORT`` of the head, or ``auto``.

    Raises:
        BadInput: nobody answers there, or no Ray head; the token is missing or wrong; the cluster
            runs another Ray or Python, or has no CPU core.
    """
    try:
        with core_log.without(core_log.ANY):
            place = _place(address)
            _look_at(place)
            _init(address, place)
    except BadInput as error:
        raise BadInput(f"--address {address}: {error}") from None


def _place(address: str) -> str:
    """Host and port of the head."""
    name = ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE
    given, source = address, ""
    if address == "auto" and os.environ.get(name):
        given, source = os.environ[name], f"{name}={os.environ[name]}: "
    if "://" in given:
        raise BadInput(
            f"{source}give the head as HOST:PORT, on a machine of the cluster; from elsewhere use "
            "`ray job submit --address http://…`"
        )
    try:
        return str(services.canonicalize_bootstrap_address(given))
    except _FAULTS as error:
        raise BadInput(f"{source}{_line(error)}; give auto or HOST:PORT") from None


def _look_at(place: str) -> None:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_S).close()
    except OSError as error:
        raise BadInput(
            f"nobody answers at {place}: {error.strerror or error}; is the head up, and its port "
            "open to this machine?"
        ) from None
    except (ValueError, OverflowError):
        raise BadInput(f"{place} has no port; give HOST:PORT, as in 192.0.2.10:6379") from None
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # As `ray.init` does it: a token that lies in the home directory is taken, and without one
    # Ray's core would end the process.
    token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        token_setup.ensure_token_if_auth_enabled(create_token_if_missing=False)
        known = usage_lib.get_cluster_metadata(ray._raylet.GcsClient(address=place))
    except AuthenticationError as error:
        raise BadInput(_of_token(error)) from None
    except _FAULTS:
        raise BadInput(
            f"what answers at {place} is no Ray head; give the port that `ray start --head` "
            "printed, 6379 unless told"
        ) from None
    try:
        check_version_info(known or {}, "this machine")
    except KeyError:
        return  # a head that does not say; Ray looks again when it is joined
    except RuntimeError:
        ray_version, python = compute_version_info()
        raise BadInput(
            f"the cluster runs Ray {known['ray_version']} on Python {known['python_version']}, "
            f"and this process Ray {ray_version} on Python {python}; use the cluster's own image, "
            "or one requirements.lock and one Python for all machines"
        ) from None


def _init(address: str, place: str) -> None:
    try:
        ray.init(address=place, log_to_driver=False, logging_level=logging.WARNING)
    except _FAULTS as error:
        ray.shutdown()
        raise BadInput(
            f"no Ray cluster joined: {_line(error)}; run it on a machine of the cluster, or with "
            "`ray job submit`"
        ) from None
    if ray.cluster_resources().get("CPU", 0) < 1:
        count = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
        raise BadInput(
            f"the cluster has no CPU core ({count} nodes); start workers, or ask the autoscaler "
            "for some, and try again"
        )


def _of_token(error: Exception) -> str:
    said = _line(error)
    if "RAY_AUTH_TOKEN_PATH is set" in said:
        return f"{said.partition('. ')[0]}; write the cluster's token there"
    if os.environ.get(token_setup.AUTH_MODE_ENV_VAR, "").lower() != "token" or (
        "no authentication token was found" in said
    ):
        return (
            "the cluster asks for a token, and there is none here; set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    return (
        "the cluster refuses the token; RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, must "
        "hold the cluster's own"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else repr(error)
