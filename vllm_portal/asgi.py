"""The front door: inference paths go to the data plane, everything else to Django. Nothing else happens here."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vllm_portal.settings")

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from inference.front import Front as Front  # noqa: E402  (its modules need Django's app registry)
from inference.openai import DataPlane  # noqa: E402

application = DataPlane(fallback=django)
