"""The portal as gunicorn serves it in `make bench`: at the instant of the tests' town, whose data stays today's."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

from compute_portal.app import create_app
from compute_portal.db import Database
from compute_portal.policy import load_policy
from config.settings import Settings
from tests.cast import NOW
from tests.web import set_now

POLICY = Path(__file__).resolve().parents[2] / "config" / "policy.toml"


def make_portal() -> Flask:
    settings = Settings(env="test", secret_key="s" * 40, public_url=os.environ["BENCH_ADDRESS"])
    app = create_app(settings, Database(os.environ["BENCH_DATABASE"]), load_policy(POLICY))
    set_now(app, NOW)
    return app
