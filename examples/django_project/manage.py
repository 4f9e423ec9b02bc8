"""A Django project, and an error page with the id of the report.

::

    cd examples/django_project
    python manage.py runserver --noreload 8000    # or: gunicorn webshop.wsgi
    celery -A webshop worker                      # its own Celery app
    curl -i 'http://localhost:8000/?item=coffee'
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webshop.settings")
    execute_from_command_line(sys.argv)
