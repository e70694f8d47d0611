"""Hashes of rescue passwords: what Unix's own tools make of the same words."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.model.password import hashed

LETTERS = "abcXYZ019./"


def test_the_example_of_the_paper() -> None:
    expected = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    assert hashed("Hello world!", "saltstring") == expected


def test_salts_are_made_by_chance_and_checked() -> None:
    assert hashed("a") != hashed("a")
    with pytest.raises(ValueError, match="salt"):
        hashed("a", "$")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@settings(max_examples=20)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=80), st.text(LETTERS, min_size=1, max_size=16))
def test_openssl_agrees(password: str, salt: str) -> None:
    argv = ["openssl", "passwd", "-6", "-salt", salt, "-stdin"]
    done = subprocess.run(argv, input=f"{password}\n", capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == hashed(password, salt)
