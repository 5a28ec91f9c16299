"""Public keys as people paste them."""

from __future__ import annotations

import base64

import pytest

from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin.keys import parse_public_key
from compute_portal.signin.models import SshKey
from tests.cast import Cast
from tests.web import Browser, make_app, plain, rows_in

# Made with ssh-keygen, fingerprints as `ssh-keygen -l` showed them.
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE3FdHhHyAkkZUZVuFdK+NK9+Sm8VaOxUwZQLzoHLtvY"
ED25519_PRINT = "SHA256:ugS7sywzrbjubxS9p2zNakoq26e8XmdsYwvMgIgpIKI"
ECDSA = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBN425+J+Ds5AEJug3rnWiks6ZADaWAvshl27xJa4"
    "fty0Mu7xMo2cevCShrdnzfTjH6R8oBV8H46pn75bO5G9o4hcNd/LswZ05YXHwetd8YsrmNQj9WbRMNcOmCNsaaFVlQ=="
)
ECDSA_PRINT = "SHA256:6+kBOL8+csFEXWBXllscsbqhADjzVLznggAdtJOOev4"
RSA = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCeQl1/9mgmM+bkvdy6A+gaAVL8/zOd0I0urrQ+4WdpMiG+f+4mnFtzJS5V7pvtYnqYmoXRpnv8"
    "J5MmeoLCcpWVlHLYjVhWcat4FLTfdXmPAyxyTwtSc8TdE5QY5+1/G9kAwgQXHVMdWbb5uILqI5UPvFNk4zgMGPx4mGivBPUmvcthc0vnTSuM5y/A"
    "C6j9MiusBxqLXG94gA/CozlE0XxOsHN4KYoSJUBgW95jML1CoQ+Jt8+96b9OxFE7zZVHqSCH/HMfPRAyP5eL5tlmMrjNwytFm2ITKoC1pEWKyZRk"
    "YN2JnXKh1kZzOtlePn8EZsljDBSmuAFm7OPXlbYXmXOt"
)
RSA_PRINT = "SHA256:zDWN0OYS4BE1dlLcRBeLvbxa9BrUmTWTu63OC/fopV4"
RSA_1024 = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCf3vO1QiVnte6jRrHJJnOjDcqbIyj6qEouGs9z6BXylJkkK5gi9TrHAlwfoQBXl1algby6oHco"
    "q6bzwuae6oDLs6gsEPpkSoha5ihCfMAuYOkDAECxPOKOBoP+ympN3K0h8/ytUstSDOeofpLkub/9Wxa3zmg7JyqdR1PlvKIz0w=="
)


@pytest.mark.parametrize(
    ("text", "fingerprint"),
    [(ED25519, ED25519_PRINT), (ECDSA, ECDSA_PRINT), (RSA, RSA_PRINT)],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_a_key_gets_the_fingerprint_of_ssh_keygen_and_loses_its_comment(text: str, fingerprint: str) -> None:
    key = parse_public_key(f"  {text} 林晓禾@laptop some more words\n")
    assert key.fingerprint == fingerprint
    assert key.text == text


def blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).decode()


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "key-not-one-line"),
        (f"{ED25519}\n{RSA}", "key-not-one-line"),
        (f"{ED25519} a\x00b", "key-not-one-line"),
        (f"{ED25519} {'x' * 5000}", "key-not-one-line"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----", "key-is-private"),
        (f'command="rm -rf /" {ED25519}', "key-unknown-type"),
        (f"from=* {ED25519}", "key-unknown-type"),
        ("ssh-dss AAAAB3NzaC1kc3M=", "key-unknown-type"),
        ("sk-ssh-ed25519@openssh.com AAAA", "key-unknown-type"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "key-unknown-type"),
        ("ssh-ed25519", "key-damaged"),
        (ED25519[:-4], "key-damaged"),
        (ED25519.replace("AAAAC3", "AAAA$3"), "key-damaged"),
        (ED25519.replace("ssh-ed25519", "ssh-rsa"), "key-damaged"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519', b'x' * 31)}", "key-damaged"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519', b'x' * 32, b'more')}", "key-damaged"),
        (f"ecdsa-sha2-nistp256 {blob(b'ecdsa-sha2-nistp256', b'nistp384', b'x' * 65)}", "key-damaged"),
        (f"ecdsa-sha2-nistp256 {blob(b'ecdsa-sha2-nistp256', b'nistp256', b'x' * 65)}", "key-damaged"),
        (f"ssh-rsa {blob(b'ssh-rsa')}", "key-damaged"),
        (f"ssh-rsa {blob(b'ssh-rsa', b'', b'')}", "key-damaged"),
        (f"ssh-rsa {blob(b'ssh-rsa', bytes([1]), b'x' * 300 + bytes([1]))}", "key-damaged"),
        (RSA_1024, "key-rsa-size"),
        (f"ssh-rsa {blob(b'ssh-rsa', bytes([3]), b'x' * 2500 + bytes([1]))}", "key-rsa-size"),
    ],
)
def test_anything_but_one_acceptable_public_key_is_refused_at_its_field(text: str, refusal: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_public_key(text)
    assert (refused.value.sentence.id, refused.value.field) == (refusal, "public_key")


@pytest.fixture
def browser(database: Database, policy: Policy, cast: Cast) -> Browser:
    browser = Browser(make_app(database, policy)).be(cast.users["chen"])
    browser.get("/keys")
    return browser


def test_a_member_adds_a_key_and_removes_it(browser: Browser, cast: Cast) -> None:
    answer = browser.post("/keys", {"name": "笔记本", "public_key": ED25519 + " me@laptop"})
    assert answer.status_code == 302
    page = browser.get("/keys")
    assert ED25519_PRINT in page.text
    assert "公钥 笔记本 已添加" in plain(page)
    assert "me@laptop" not in page.text
    with cast.database.read_only() as session:
        key = session.query(SshKey).one()
    browser.post(f"/keys/{key.id}/remove")
    assert ED25519_PRINT not in browser.get("/keys").text


def test_a_key_that_was_removed_can_be_added_again(browser: Browser, cast: Cast) -> None:
    browser.post("/keys", {"name": "a", "public_key": ED25519})
    with cast.database.read_only() as session:
        key_id = session.query(SshKey).one().id
    browser.get("/keys")
    browser.post(f"/keys/{key_id}/remove")
    browser.get("/keys")
    assert browser.post("/keys", {"name": "b", "public_key": ED25519}).status_code == 302
    assert rows_in(cast.database, SshKey) == 1
    page = browser.get("/keys")
    assert ED25519_PRINT in page.text
    answer = browser.post("/keys", {"name": "c", "public_key": ED25519})
    assert answer.status_code == 422
    assert "这把公钥已在你的列表里，名称是 b。" in plain(answer)


def test_a_refused_key_keeps_what_was_typed_and_stores_nothing(browser: Browser, cast: Cast) -> None:
    answer = browser.post("/keys", {"name": "我的 <b>笔记本", "public_key": "ssh-rsa AAAA"})
    assert answer.status_code == 422
    assert "<title>有 1 处需要修改 · SSH 公钥" in answer.text
    assert 'href="#public_key"' in answer.text
    assert 'id="public_key-error"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "我的 &lt;b&gt;笔记本" in answer.text
    assert "ssh-rsa AAAA" in answer.text
    assert rows_in(cast.database, SshKey) == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\x00b", "a\nb"])
def test_a_bad_name_is_a_sentence_at_its_field(browser: Browser, cast: Cast, name: str) -> None:
    answer = browser.post("/keys", {"name": name, "public_key": ED25519})
    assert answer.status_code == 422
    assert 'id="name-error"' in answer.text
    assert rows_in(cast.database, SshKey) == 0


def test_nobody_removes_anothers_key(browser: Browser, cast: Cast) -> None:
    browser.post("/keys", {"name": "a", "public_key": ED25519})
    with cast.database.read_only() as session:
        key_id = session.query(SshKey).one().id
    other = Browser(browser.app).be(cast.users["lin"])
    other.get("/keys")
    assert other.post(f"/keys/{key_id}/remove").status_code == 404
    assert other.post("/keys/99999999999999999999/remove").status_code == 404
    assert ED25519_PRINT in browser.get("/keys").text
    assert ED25519_PRINT not in other.get("/keys").text


def test_twenty_keys_are_enough(browser: Browser, cast: Cast) -> None:
    for number in range(20):
        text = f"ssh-ed25519 {blob(b'ssh-ed25519', bytes([number]) * 32)}"
        browser.get("/keys")
        assert browser.post("/keys", {"name": str(number), "public_key": text}).status_code == 302
    browser.get("/keys")
    answer = browser.post("/keys", {"name": "one more", "public_key": ED25519})
    assert answer.status_code == 422
    assert "你已有 20 把公钥" in plain(answer)
