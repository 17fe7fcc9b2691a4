"""A Django project with a consumer: `PHX_URL=ws://localhost:4000/socket python manage.py follow sim:1`."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    execute_from_command_line(sys.argv)
