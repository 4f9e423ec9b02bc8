"""What the shop does later."""

from celery import shared_task


@shared_task
def invoice(amount: str) -> int:
    """Write an invoice."""
    return int(amount)
