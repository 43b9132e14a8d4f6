"""The portal under test: its own settings, and one page more (`bench.urls`)."""

from vllm_portal.settings import *  # noqa: F403

ROOT_URLCONF = "bench.urls"
