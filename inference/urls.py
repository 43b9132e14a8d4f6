from django.urls import include, path

from inference import conversations_api as about
from inference import side_bar
from inference.aliases_api import AliasViewSet
from inference.api import LlmRequestView
from inference.conversations_v1 import ConversationViewSet
from inference.usage_api import UsageViewSet
from inference.usage_page import usage
from inference.views import playground, playground_token
from vllm_portal.rest import endpoint
from vllm_portal.v1 import PREFIX, Router

router = Router()
router.register("conversations", ConversationViewSet, "conversation")
router.register("usage", UsageViewSet, "usage")
router.register("aliases", AliasViewSet, "alias")

_TALK = "playground/conversations/(?P<conversation_id>[0-9a-f-]{36})"

urlpatterns = [
    endpoint("llm_request", LlmRequestView.as_view(), "llm-request"),
    endpoint("db_request/add_conversation", about.AddConversationView.as_view(), "add-conversation"),
    endpoint("db_request/delete_conversation", about.DeleteConversationView.as_view(), "delete-conversation"),
    endpoint("db_request/retrieve_conversation", about.RetrieveConversationView.as_view(), "retrieve-conversation"),
    endpoint(
        "db_request/retrieve_latest_conversation",
        about.RetrieveLatestConversationView.as_view(),
        "retrieve-latest-conversation",
    ),
    endpoint("db_request/update_conversation_name", about.RenameConversationView.as_view(), "update-conversation-name"),
    endpoint(
        "db_request/retrieve_all_conversations", about.ConversationNumbersView.as_view(), "retrieve-all-conversations"
    ),
    endpoint("db_request/get_user_conversations", about.ConversationNamesView.as_view(), "get-user-conversations"),
    path(PREFIX, include(router.urls)),
    endpoint("usage", usage, "usage"),
    endpoint("playground", playground, "playground"),
    endpoint("playground/token", playground_token, "playground-token"),
    endpoint("playground/conversations", side_bar.listed, "listed-conversations"),
    endpoint(f"{_TALK}/rename", side_bar.rename, "rename-conversation"),
    endpoint(f"{_TALK}/delete", side_bar.delete, "erase-conversation"),
]
