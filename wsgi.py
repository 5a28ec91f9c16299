"""What gunicorn runs: `gunicorn -c config/gunicorn.py wsgi:app`."""

from compute_portal.app import create_app
from config.logs import configure_logs
from config.settings import load_settings

settings = load_settings()
configure_logs("web", settings.log_level)
app = create_app(settings)
