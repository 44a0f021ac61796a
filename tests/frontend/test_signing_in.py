"""Signing in and out, in a browser."""

import httpx
import pytest
from playwright.sync_api import expect

from tests.frontend.browsing import serious_violations, shoot, sign_in

pytestmark = pytest.mark.service


def test_who_has_not_signed_in_is_asked_to_and_comes_to_the_page_they_wanted(visitor, service):
    visitor.goto("/?domain=a%26b")
    expect(visitor).to_have_title("Sign in · Facedex")
    shoot(visitor, "sign-in")
    assert serious_violations(visitor) == []
    sign_in(visitor, service.key, "/?domain=a%26b")
    assert visitor.url == f"{service.url}/?domain=a%26b"


def test_a_wrong_key_is_answered_in_words(visitor):
    visitor.watcher.expect_status(403)
    visitor.goto("/sign-in")
    visitor.get_by_label("API key").fill("fdx_wrong")
    visitor.get_by_role("button", name="Sign in").click()
    expect(visitor.get_by_role("alert")).to_contain_text("not known here")
    shoot(visitor, "sign-in-wrong")
    assert serious_violations(visitor) == []


def test_behind_a_proxy_with_tls_the_cookie_is_kept_to_https(service):
    headers = {"Origin": "https://faces.example", "Host": "faces.example", "X-Forwarded-Proto": "https"}
    answer = httpx.post(f"{service.url}/sign-in", data={"key": service.key}, headers=headers, timeout=60)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-facedex=")
    assert "Secure" in cookie.split("; ")
