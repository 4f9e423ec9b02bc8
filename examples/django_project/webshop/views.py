"""What the shop does."""

from django.http import HttpRequest, HttpResponse

from . import tasks


def checkout(request: HttpRequest) -> HttpResponse:
    """Sell something; the price may be missing."""
    prices = {"tea": 3}
    return HttpResponse(prices[request.GET["item"]])


def invoice(request: HttpRequest) -> HttpResponse:
    """Have an invoice written, by a task."""
    return HttpResponse(tasks.invoice.delay(request.GET["amount"]).id)
