from django.urls import include, path

from engines import fit_page, order_page, recipes_page, views
from engines.api import (
    ActiveModelsObjectView,
    ActiveModelsView,
    EngineLogView,
    EngineView,
    StartView,
    TerminateView,
)
from engines.cached_models_v1 import CachedModelViewSet
from engines.fit_api import FitView
from engines.leaving_api import DeleteUserView, RemoveUserView
from engines.nodes_v1 import NodeViewSet
from engines.recipes_v1 import RecipeViewSet
from engines.v1 import EngineViewSet
from vllm_portal.rest import endpoint
from vllm_portal.v1 import PREFIX, Router

_PAGE = "engine/(?P<engine_id>[0-9a-f-]{36})"
_ENGINE = "vllm_request/engines/(?P<engine_id>[0-9a-f-]{36})"

router = Router()
router.register("engines", EngineViewSet, "v1-engine")
router.register("cached-models", CachedModelViewSet, "v1-cached-model")
router.register("nodes", NodeViewSet, "v1-node")
router.register("recipes", RecipeViewSet, "v1-recipe")

urlpatterns = [
    endpoint("vllm_request/start", StartView.as_view(), "start"),
    endpoint("vllm_request/terminate", TerminateView.as_view(), "terminate"),
    endpoint("active_models", ActiveModelsView.as_view(), "active-models"),
    endpoint("vllm_request/active_models", ActiveModelsObjectView.as_view(), "active-models-object"),
    endpoint(_ENGINE, EngineView.as_view(), "engine"),
    endpoint(f"{_ENGINE}/logs", EngineLogView.as_view(), "engine-logs"),
    endpoint("db_request/delete_user", DeleteUserView.as_view(), "delete-user"),
    endpoint("api/v1/users/(?P<user_id>[0-9]{1,18})/remove", RemoveUserView.as_view(), "remove-user"),
    endpoint("api/v1/engines/fit", FitView.as_view(), "fit"),
    path(PREFIX, include(router.urls)),
    # Pages. /engines/… is the data plane's.
    endpoint("engine/new", order_page.new_engine, "new-engine"),
    endpoint("engine/fit", fit_page.verdict, "fit-page"),
    endpoint("engine/lines", order_page.lines, "order-lines"),
    endpoint(_PAGE, views.engine_page, "engine-page"),
    endpoint(f"{_PAGE}/share", views.share_engine, "share-engine"),
    endpoint(f"{_PAGE}/keep", views.keep_engine, "keep-engine"),
    endpoint(f"{_PAGE}/wake", views.wake_engine, "wake-engine"),
    endpoint(f"{_PAGE}/stop", views.stop_engine, "stop-engine"),
    endpoint(f"{_PAGE}/recipe", recipes_page.keep_recipe, "keep-recipe"),
    endpoint("recipes", recipes_page.recipes_page, "recipes"),
    endpoint("recipes/(?P<recipe_id>[0-9]{1,18})/delete", recipes_page.delete_recipe, "delete-recipe"),
    endpoint("cards", views.cards_fragment, "cards"),
    endpoint("cards/events", views.cards_events, "cards-events"),
]
