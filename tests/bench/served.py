"""The portal for a load test: `gunicorn tests.bench.served:app`, on a clock that stands at the cast's morning."""

from compute_portal.app import create_app
from config.settings import load_settings
from tests.cast import NOW
from tests.web import set_now

app = create_app(load_settings())
set_now(app, NOW)
