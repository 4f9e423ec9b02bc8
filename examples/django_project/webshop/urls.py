"""Which view answers what."""

from django.urls import path

from . import views

handler500 = "webshop.oopses.error_page"  # Django's name; not used while DEBUG is on
urlpatterns = [
    path("", views.checkout, name="checkout"),
    path("invoice", views.invoice, name="invoice"),
]
