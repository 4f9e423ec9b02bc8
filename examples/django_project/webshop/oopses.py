"""Each request that fails becomes a report. Goes into any project as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import oops
from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.utils.html import format_html

import oops_celery


def describe_request(report: dict[str, Any], context: dict[str, Any]) -> None:
    """Put the request into the report: a hook."""
    request: HttpRequest | None = context.get("request")
    if request is not None:
        report["url"] = request.get_full_path()
        report["req_vars"] = {"REQUEST_METHOD": request.method, **request.headers}


def keep(report: dict[str, Any]) -> list[str]:
    """Keep a report in a folder, while RabbitMQ is away."""
    ids: list[str] = oops_celery.FolderPublisher(settings.OOPS_FALLBACK)(report)
    return ids


config = oops.Config()
config.publisher = oops.publish_with_fallback(oops_celery.publisher, keep)
config.template["reporter"] = "webshop"
# The scrubber behind the other hooks: it can only blank what is there already.
config.on_create += [describe_request, oops_celery.scrub]


class OopsMiddleware:
    """Names the report of a request that failed, in the header X-Oops-Id."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        # What no view and no other middleware has caught.
        got_request_exception.connect(report_exception, dispatch_uid=__name__)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        response = self.get_response(request)
        if getattr(request, "oops_id", None):
            response["X-Oops-Id"] = request.oops_id
        return response


def report_exception(request: HttpRequest, **_: Any) -> None:
    """Publish an exception; remember its id."""
    match = request.resolver_match
    context = {
        "exc_info": sys.exc_info(),
        "request": request,
        "topic": match.view_name if match else request.path,
    }
    ids = config.publish(config.create(context))
    request.oops_id = ids[-1] if ids else None


def error_page(request: HttpRequest) -> HttpResponse:
    """Show the id to the user: urls.py has this as its handler500."""
    mention = ""
    if getattr(request, "oops_id", None):
        mention = format_html(
            "<p>We have been told. If you write to us, please mention <b>{}</b>.</p>",
            request.oops_id,
        )
    page = "<!DOCTYPE html><title>Sorry</title><h1>Something went wrong</h1>"
    return HttpResponseServerError(page + mention)
