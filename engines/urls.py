from engines.api import (
    ActiveModelsObjectView,
    ActiveModelsView,
    EngineLogView,
    EngineView,
    StartView,
    TerminateView,
)
from vllm_portal.rest import endpoint

_ENGINE = "vllm_request/engines/(?P<engine_id>[0-9a-f-]{36})"

urlpatterns = [
    endpoint("vllm_request/start", StartView.as_view(), "start"),
    endpoint("vllm_request/terminate", TerminateView.as_view(), "terminate"),
    endpoint("active_models", ActiveModelsView.as_view(), "active-models"),
    endpoint("vllm_request/active_models", ActiveModelsObjectView.as_view(), "active-models-object"),
    endpoint(_ENGINE, EngineView.as_view(), "engine"),
    endpoint(f"{_ENGINE}/logs", EngineLogView.as_view(), "engine-logs"),
]
