"""Pages about oneself: to log in, API keys, a password."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, PasswordResetConfirmView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse_lazy
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRefresh

from accounts import keys, standing
from accounts.forms import KeyForm
from accounts.models import ApiKey, User


class LogIn(LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """A page that asked for a piece of itself while logged out is loaded anew: this one is no piece of it."""
        return HttpResponseClientRefresh() if request.htmx else super().get(request, *args, **kwargs)


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def keys_page(request: HttpRequest) -> HttpResponse:
    """Lists and makes. A new key is in the answer to the very form that makes it, and nowhere else."""
    form, made, clear = KeyForm(request.POST or None), None, None
    if request.method == "POST" and form.is_valid():
        made, clear = keys.make(request.user, form.rights())
        form = KeyForm()
    owned = list(ApiKey.objects.filter(user=request.user).select_related("limit"))
    for key in owned:
        key.rates = standing.rates_of_key(key) if key.revoked_at is None else []
    context = {"form": form, "made": made, "clear": clear, "keys": owned, "now": timezone.now()}
    context["standing"] = standing.of_user(User.objects.select_related("token_limit").get(pk=request.user.pk))
    return render(request, "accounts/keys.html", context)


@never_cache
@login_required
@require_POST
def revoke_key(request: HttpRequest, key_id: str) -> HttpResponse:
    key = get_object_or_404(ApiKey, pk=key_id, user=request.user)
    keys.revoke(key)
    messages.success(request, f"The key {key.name} is revoked.")
    return redirect("keys")


set_password = PasswordResetConfirmView.as_view(
    template_name="accounts/set_password.html", success_url=reverse_lazy("rest_framework:login")
)
"""For whoever has a link of `accounts.password_links`: Django moves its token into the session, out of the address."""
