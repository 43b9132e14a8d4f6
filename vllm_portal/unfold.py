"""How the admin pages look and what their side bar lists; read by django-unfold."""

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse, reverse_lazy


def _page(title: str, icon: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{name}", **arguments)}


def _rows(title: str, icon: str, model: str) -> dict[str, Any]:
    return _page(title, icon, f"{model}_changelist")


def _users_but_not_their_import(request: HttpRequest) -> bool:
    users, own = reverse("admin:accounts_user_changelist"), reverse("admin:accounts_user_import")
    return request.path.startswith(users) and request.path != own


NAVIGATION = [
    {
        "title": "Portal",
        "items": [
            _page("Dashboard", "dashboard", "index"),
            _page("Settings in force", "tune", "settings"),
            _rows("Who changed what", "history", "admin_logentry"),
            _rows("Ledger audits", "fact_check", "inference_auditrun"),
        ],
    },
    {
        "title": "People",
        "items": [
            {**_rows("Users", "group", "accounts_user"), "active": _users_but_not_their_import},
            _rows("Groups", "groups", "auth_group"),
            _page("Import users", "upload", "accounts_user_import"),
            _rows("API keys", "key", "accounts_apikey"),
        ],
    },
    {
        "title": "Machines",
        "items": [
            _rows("Engines", "memory", "engines_engine"),
            _rows("Recipes", "menu_book", "engines_recipe"),
            _rows("Model aliases", "label", "inference_modelalias"),
            _rows("GPUs", "developer_board", "engines_gpu"),
            _rows("Leases of GPUs", "lock_clock", "engines_gpulease"),
            _page("Cached models", "hard_drive", "cached_models"),
            _rows("What starts measured", "straighten", "engines_startmeasure"),
        ],
    },
    {
        "title": "Requests",
        "items": [
            _rows("Usage records", "receipt_long", "inference_usagerecord"),
            _rows("Conversations", "forum", "inference_conversation"),
        ],
    },
]

BLUE = {
    "50": "#eef4ff", "100": "#dbe7ff", "200": "#bcd3ff", "300": "#9dc1ff", "400": "#7fb0ff", "500": "#3f7ce8",
    "600": "#1f5fd0", "700": "#1a4fae", "800": "#19438d", "900": "#193a71", "950": "#122449",
}  # fmt: skip
"""The portal's own, as in colours.css."""

UNFOLD = {
    "SITE_TITLE": "vllm-portal",
    "SITE_HEADER": "vllm-portal",
    "SITE_SYMBOL": "dns",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal.svg")}],
    "SITE_URL": "/",
    "COLORS": {"primary": BLUE},
    "STYLES": [lambda request: static("admin.css")],
    "SCRIPTS": [lambda request: static("admin.js")],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "vllm_portal.dashboard.dashboard",
    "COMMAND": {"search_callback": "vllm_portal.admin_search.found"},
    "SIDEBAR": {"show_search": True, "command_search": True, "navigation": NAVIGATION},
}
