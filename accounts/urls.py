from django.urls import include, path

from accounts import (
    api,
    schema,  # noqa: F401  (the API docs find it once it is imported)
    views,
)
from accounts.keys_api import CallerView, KeyViewSet
from accounts.password_page import ChangePassword
from accounts.users_api import UserViewSet
from vllm_portal.rest import endpoint
from vllm_portal.v1 import PREFIX, Router

router = Router()
router.register("keys", KeyViewSet, "api-key")
router.register("users", UserViewSet, "user")

urlpatterns = [
    endpoint("token", api.TokenView.as_view(), "token"),
    endpoint("token/refresh", api.RefreshView.as_view(), "token-refresh"),
    endpoint("token/logout", api.LogoutView.as_view(), "token-logout"),
    endpoint("db_request/add_user", api.AddUserView.as_view(), "add-user"),
    endpoint("db_request/get_token_info", api.TokenInfoView.as_view(), "get-token-info"),
    endpoint("db_request/update_token_limit", api.UpdateTokenLimitView.as_view(), "update-token-limit"),
    endpoint("db_request/update_token_number", api.UpdateTokenNumberView.as_view(), "update-token-number"),
    endpoint("db_request/check_user_existence", api.UserExistenceView.as_view(), "check-user-existence"),
    endpoint("db_request/disable_user", api.DisableUserView.as_view(), "disable-user"),
    endpoint("db_request/enable_user", api.EnableUserView.as_view(), "enable-user"),
    endpoint("db_request/get_all_users", api.PeopleView.as_view(), "get-all-users"),
    endpoint("db_request/get_all_data", api.PeopleView.as_view(), "get-all-data"),
    endpoint("api/v1/key", CallerView.as_view(), "caller"),
    path(PREFIX, include(router.urls)),
    path("password/<uidb64>/<token>/", views.set_password, name="set-password"),
    endpoint("keys", views.keys_page, "keys"),
    endpoint("keys/(?P<key_id>[0-9]{1,18})/revoke", views.revoke_key, "revoke-key"),
    endpoint("password", ChangePassword.as_view(), "change-password"),
]
