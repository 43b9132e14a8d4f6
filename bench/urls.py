"""The portal's routes, and a page that costs CPU as a slow page does: Python, in a thread, behind all middleware."""

import time

from django.http import HttpRequest, HttpResponse
from django.urls import path

from vllm_portal.urls import urlpatterns as of_the_portal

PAGE_CPU_SECONDS = 0.2


def slow_page(request: HttpRequest) -> HttpResponse:
    until = time.thread_time() + PAGE_CPU_SECONDS
    while time.thread_time() < until:
        sum(range(1000))
    return HttpResponse("<!doctype html><title>slow</title>")


urlpatterns = [path("bench/slow-page", slow_page), *of_the_portal]
