"""The pages' language: English, or one whose gettext catalogue lies in `translations`.

`scripts/texts` takes the texts out of templates and scripts, and compiles catalogues. Templates have `_` and `ngettext`;
scripts import `t` and `tn` from `js/i18n.js`, which asks for the catalogue as JSON. Numbers and times are written by the
browser, in the locale of whoever reads.
"""

import gettext
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response, abort, g, jsonify, request, url_for

from app.api.access import open_page

_FOLDER: Final = Path(__file__).resolve().parent / "translations"
_SOURCE_LANGUAGE: Final = "en"
_DOMAIN: Final = "pages"
# Every rule of plurals looks at the last two digits of a number, and at whether it is small.
_PLURALS: Final = 200


@cache
def languages() -> tuple[str, ...]:
    """The tags of those that the pages can be read in, English first."""
    found = sorted(path.parts[-3] for path in _FOLDER.glob(f"*/LC_MESSAGES/{_DOMAIN}.mo"))
    return (_SOURCE_LANGUAGE, *found)


def language() -> str:
    """What the browser prefers among them."""
    if "language" not in g:
        g.language = request.accept_languages.best_match(languages(), _SOURCE_LANGUAGE)
    chosen: str = g.language
    return chosen


def register_texts(app: Flask) -> None:
    """Give templates the functions that translate, and scripts the address of their texts."""
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
        translated,
        lambda one, many, number: _catalogue(language()).ngettext(one, many, number),
        newstyle=True,
    )
    app.jinja_env.globals.update(language=language, texts_url=texts_url)
    app.add_url_rule("/texts/<digest>/<name>.json", "texts", texts, methods=["GET"])


def translated(text: str) -> str:
    """A text in the language of whoever reads."""
    return _catalogue(language()).gettext(text)


def texts_url() -> str | None:
    """Where scripts find their texts; None where they need none."""
    if language() == _SOURCE_LANGUAGE:
        return None  # they are in the scripts
    return url_for("texts", digest=_digest(language()), name=language())


@open_page()
def texts(digest: str, name: str) -> Response:
    """One language's texts: each, or the forms of its plural, under the English one; and which form each number has."""
    if name not in languages() or name == _SOURCE_LANGUAGE:
        abort(404)
    catalogue = _catalogue(name)
    found: dict[str, Any] = {}
    for key, text in getattr(catalogue, "_catalog", {}).items():
        if isinstance(key, tuple):
            found.setdefault(key[0], {})[str(key[1])] = text
        elif key:
            found[key] = text
    form_of = getattr(catalogue, "plural", lambda number: int(number != 1))
    response = jsonify(texts=found, plural=[form_of(number) for number in range(_PLURALS)])
    if digest == _digest(name):
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


@cache
def _catalogue(name: str) -> gettext.NullTranslations:
    return gettext.translation(_DOMAIN, _FOLDER, [name], fallback=name == _SOURCE_LANGUAGE)


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((_FOLDER / name / "LC_MESSAGES" / f"{_DOMAIN}.mo").read_bytes()).hexdigest()[:16]
