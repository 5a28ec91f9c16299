"""What gunicorn runs: `gunicorn -c config/gunicorn.py wsgi:app`."""

import sys

from compute_portal.app import create_app
from compute_portal.policy import PolicyError
from config.logs import configure_logs
from config.settings import SettingsError, load_settings

try:
    settings = load_settings()
    configure_logs("web", settings.log_level)
    app = create_app(settings)
except (SettingsError, PolicyError) as error:
    sys.stderr.write(f"{error}\n")  # whoever starts the process reads it; the exit code is 2
    raise
