"""Whether a model fits, for the form of a start: asked while one types, answered as a piece of a page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from engines.fit import question
from engines.fit_serializers import FitOrderSerializer
from engines.order_page import FIELDS, as_json, words
from vllm_portal.errors import CallerError, OperatorError, Unavailable


@never_cache
@require_POST
def verdict(request: HttpRequest) -> HttpResponse:
    """The answer of `/api/v1/engines/fit` to the fields of the form. Half a name is no error of the page: that nothing
    can be said (yet) is an answer like others, with 200."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    if not request.POST.get("model", "").strip():
        return render(request, "engines/verdict.html")
    order = FitOrderSerializer(data=as_json({name: value for name, value in request.POST.items() if value}))
    if not order.is_valid():
        problem = " ".join(f"{name}: {words(said)}" for name, said in order.errors.items())
        return render(request, "engines/verdict.html", {"problem": problem})
    try:
        fit = question.ask(order.order(), order.validated_data["kv_cache_dtype"], [])
    except (CallerError, Unavailable) as error:
        return render(request, "engines/verdict.html", {"problem": str(error)})
    except OperatorError:
        return render(request, "engines/verdict.html", {"problem": "The portal cannot say now."})
    return render(request, "engines/verdict.html", {"fit": fit, "fields": FIELDS})
