"""What a page costs at the least: a bare Flask app that renders a table of 25 rows, no database, nobody signed in.

Ratios to it, taken in the same run, say more than milliseconds of somebody's machine.
"""

from __future__ import annotations

from flask import Flask, render_template
from jinja2 import DictLoader

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title></head>
<body>
<h1>{{ title }}</h1>
<table>
<thead><tr><th>Number</th><th>Name</th><th>State</th><th>Hours</th></tr></thead>
<tbody>
{% for row in rows %}<tr><th>{{ row.number }}</th><td><a href="/{{ row.number }}">{{ row.name }}</a></td>
<td>{{ row.state }}</td><td>{{ row.hours }}</td></tr>
{% endfor %}</tbody>
</table>
</body>
</html>
"""
ROWS = [{"number": n, "name": f"Enterprise {n}", "state": "active", "hours": f"{n * 1_000:,}"} for n in range(1, 26)]


def make_yardstick() -> Flask:
    app = Flask("yardstick")
    app.jinja_loader = DictLoader({"page.html": PAGE})  # compiled once, like any page
    app.add_url_rule("/", view_func=lambda: render_template("page.html", title="Twenty-five rows", rows=ROWS))
    return app
