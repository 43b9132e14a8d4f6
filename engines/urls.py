from django.urls import include, path

from engines.api import (
    ActiveModelsObjectView,
    ActiveModelsView,
    EngineLogView,
    EngineView,
    StartView,
    TerminateView,
)
from engines.leaving_api import DeleteUserView, RemoveUserView
from engines.v1 import EngineViewSet, NodeViewSet
from vllm_portal.rest import endpoint
from vllm_portal.v1 import PREFIX, Router

_ENGINE = "vllm_request/engines/(?P<engine_id>[0-9a-f-]{36})"

router = Router()
router.register("engines", EngineViewSet, "v1-engine")
router.register("nodes", NodeViewSet, "v1-node")

urlpatterns = [
    endpoint("vllm_request/start", StartView.as_view(), "start"),
    endpoint("vllm_request/terminate", TerminateView.as_view(), "terminate"),
    endpoint("active_models", ActiveModelsView.as_view(), "active-models"),
    endpoint("vllm_request/active_models", ActiveModelsObjectView.as_view(), "active-models-object"),
    endpoint(_ENGINE, EngineView.as_view(), "engine"),
    endpoint(f"{_ENGINE}/logs", EngineLogView.as_view(), "engine-logs"),
    endpoint("db_request/delete_user", DeleteUserView.as_view(), "delete-user"),
    endpoint("api/v1/users/(?P<user_id>[0-9]{1,18})/remove", RemoveUserView.as_view(), "remove-user"),
    path(PREFIX, include(router.urls)),
]
