"""What Docker says of a container, as an Observation. Pure.

created -> running <-> paused -> exited; `restarting`, `removing` and `dead` come and go.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engines.launchers.base import LaunchSpec, Listed, Observation, Status
from engines.launchers.container_config import LABEL_ENGINE, LABEL_GENERATION, LABEL_PORTAL, PORT, PORT_KEY, labels

STATUSES = {"running": Status.RUNNING, "exited": Status.EXITED, "dead": Status.EXITED}
"""Everything else is UNKNOWN: it may run again, or is about to run."""


def is_portals(inspected: Mapping[str, Any], portal_id: str) -> bool:
    """Whether the container is this portal's, by its label; a name proves nothing."""
    return _labels(inspected).get(LABEL_PORTAL) == portal_id


def is_this_engine(inspected: Mapping[str, Any], spec: LaunchSpec) -> bool:
    """Whether the container is this engine in this generation, and this portal's."""
    return labels(spec).items() <= _labels(inspected).items()


def observe(inspected: Mapping[str, Any]) -> Observation:
    """The container of an inspect call."""
    state = inspected["State"]
    status = STATUSES.get(state["Status"], Status.UNKNOWN)
    if status is Status.RUNNING:
        host, port = _address(inspected)
        if port is None:
            return Observation(Status.UNKNOWN, inspected["Id"], message="it runs, but has no port yet")
        return Observation(status, inspected["Id"], host, port, image_digest=inspected.get("Image", ""))
    if status is Status.EXITED:
        return Observation(
            status,
            inspected["Id"],
            exit_code=state.get("ExitCode"),
            oom_killed=bool(state.get("OOMKilled")),
            message=state.get("Error") or "",
        )
    message = f"the container is {state['Status']}"
    return Observation(
        status, inspected["Id"], message=f"{message}: {state['Error']}" if state.get("Error") else message
    )


def listed(container: Mapping[str, Any]) -> Listed | None:
    """One container of a list call; None for one whose labels are not complete."""
    found = container.get("Labels") or {}
    generation = found.get(LABEL_GENERATION, "")
    if not generation.isdecimal() or LABEL_ENGINE not in found or not container.get("Names"):
        return None
    status = STATUSES.get(container.get("State", ""), Status.UNKNOWN)
    return Listed(container["Names"][0].lstrip("/"), found[LABEL_ENGINE], int(generation), status)


def _labels(inspected: Mapping[str, Any]) -> dict[str, str]:
    return (inspected.get("Config") or {}).get("Labels") or {}


def _address(inspected: Mapping[str, Any]) -> tuple[str, int | None]:
    """Where this machine reaches it: what is published, else its name on the network that it shares with us."""
    published = (inspected["NetworkSettings"].get("Ports") or {}).get(PORT_KEY)
    if published:
        return published[0]["HostIp"], int(published[0]["HostPort"])
    wanted = (inspected["HostConfig"].get("PortBindings") or {}).get(PORT_KEY)
    return ("", None) if wanted else (inspected["Name"].lstrip("/"), PORT)


def nanoseconds(timestamp: str) -> int:
    """`2026-11-22T23:39:00.123456789Z` since the epoch. Raises ValueError."""
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
