from inference.api import LlmRequestView
from vllm_portal.rest import endpoint

urlpatterns = [endpoint("llm_request", LlmRequestView.as_view(), "llm-request")]
