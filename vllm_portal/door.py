"""The application of a web process: inference paths go to the data plane, everything else to the pages' process."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")

import django

django.setup()

from inference.front import Front as Front  # noqa: E402  (its modules need Django's app registry)
from inference.openai import DataPlane  # noqa: E402
from inference.pages import Pages  # noqa: E402
from vllm_portal.config import get_config  # noqa: E402

# /llm_request answers there when its engine has.
_config = get_config()
_pages = Pages(str(_config.pages_socket), patience_s=_config.total_timeout_seconds + 60)
application = DataPlane(fallback=_pages, at_end=_pages.close)
