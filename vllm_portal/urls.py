"""The routes of the control plane. Inference paths never come here: `vllm_portal.asgi` takes them before."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from accounts.views import LogIn
from vllm_portal import admin_views, static_files, views
from vllm_portal.rest import endpoint

# DRF's pages link to these two by this namespace.
log_in_and_out = [
    endpoint("login", LogIn.as_view(), "login"),
    endpoint("logout", LogoutView.as_view(), "logout"),
]

admin.autodiscover()
admin.site.extra_urls = lambda: admin_views.urls  # unfold asks for it

urlpatterns = [
    path("", views.home, name="home"),
    endpoint("welcome", views.welcome, "welcome"),
    endpoint("healthz", views.healthz, "healthz"),
    path("", include((log_in_and_out, "rest_framework"))),
    # Pages of packages name no icon, and browsers ask here then.
    path("favicon.ico", RedirectView.as_view(url="/static/portal.svg")),
    path("static/<path:path>", static_files.static_file, name="static"),
    path("admin/", admin.site.urls),
    endpoint("api/schema", SpectacularAPIView.as_view(), "schema"),
    endpoint("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema", template_name="docs.html"), "docs"),
    path("", include("accounts.urls")),
    path("", include("engines.urls")),
    path("", include("inference.urls")),
]
