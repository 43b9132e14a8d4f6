"""What `docker pull` says, in one short line for people. Pure."""

from collections.abc import Mapping
from typing import Any

LAYER_DONE = frozenset({"Pull complete", "Already exists"})
LAYER_LOADED = LAYER_DONE | {"Download complete", "Verifying Checksum", "Extracting"}
LAYER_BEGUN = LAYER_LOADED | {"Pulling fs layer", "Waiting", "Downloading"}


class PullProgress:
    """Adds up the daemon's messages, which tell of one layer each."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, str] = {}
        self._loaded: dict[str, int] = {}

    def add(self, message: Mapping[str, Any]) -> None:
        """One message of the pull. Those that are about no layer change nothing."""
        status, layer = str(message.get("status", "")), str(message.get("id", ""))
        if not layer or not (status in LAYER_BEGUN or status.startswith("Retrying in")):
            return
        self._layers[layer] = status
        detail = message.get("progressDetail") or {}
        if status == "Downloading" and isinstance(detail.get("current"), int):
            self._loaded[layer] = detail["current"]

    def line(self) -> str:
        """Such as `pulling IMAGE: 3 of 12 layers, 1.2 GB`; the bytes are those that came over the network."""
        if not self._layers:
            return f"pulling {self._image}"
        done = sum(status in LAYER_DONE for status in self._layers.values())
        loaded = sum(self._loaded.values())
        size = f", {loaded / 1e9:.1f} GB" if loaded >= 5e7 else f", {loaded / 1e6:.0f} MB" if loaded >= 5e5 else ""
        return f"pulling {self._image}: {done} of {len(self._layers)} layers{size}"
