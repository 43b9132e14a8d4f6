"""The page where one changes one's own password. Links with which somebody without a password sets one are an admin's
to make."""

from django.contrib import messages
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache


@method_decorator(never_cache, name="dispatch")
class ChangePassword(PasswordChangeView):
    """This browser stays logged in; access tokens and other browsers do not (`User.token_version`, Django's session
    hash). API keys live on."""

    template_name = "accounts/change_password.html"

    def get_success_url(self) -> str:
        """`?next=`, if it is a page of this portal."""
        wanted = self.request.GET.get("next", "")
        own = url_has_allowed_host_and_scheme(wanted, {self.request.get_host()}, self.request.is_secure())
        return wanted if own else reverse("home")

    def form_valid(self, form) -> HttpResponse:
        messages.success(self.request, "Your password is changed. Programs have to log in again.")
        return super().form_valid(form)
