"""The application for Gunicorn and for `flask --app wsgi`."""

from app import create_app
from app.config import SettingsError, load_settings

try:
    app = create_app(load_settings())
except SettingsError as error:
    raise SystemExit(f"facedex: wrong settings: {error}") from None
