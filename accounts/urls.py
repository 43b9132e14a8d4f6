from accounts import (
    api,
    schema,  # noqa: F401  (the API docs find it once it is imported)
)
from vllm_portal.rest import endpoint

urlpatterns = [
    endpoint("token", api.TokenView.as_view(), "token"),
    endpoint("token/refresh", api.RefreshView.as_view(), "token-refresh"),
    endpoint("db_request/add_user", api.AddUserView.as_view(), "add-user"),
    endpoint("db_request/get_token_info", api.TokenInfoView.as_view(), "get-token-info"),
    endpoint("db_request/update_token_limit", api.UpdateTokenLimitView.as_view(), "update-token-limit"),
    endpoint("db_request/update_token_number", api.UpdateTokenNumberView.as_view(), "update-token-number"),
    endpoint("db_request/check_user_existence", api.UserExistenceView.as_view(), "check-user-existence"),
    endpoint("db_request/disable_user", api.DisableUserView.as_view(), "disable-user"),
    endpoint("db_request/enable_user", api.EnableUserView.as_view(), "enable-user"),
    endpoint("db_request/get_all_users", api.PeopleView.as_view(), "get-all-users"),
    endpoint("db_request/get_all_data", api.PeopleView.as_view(), "get-all-data"),
]
