"""Only who knows the secret gets through, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydask.wire.authentication import (
    GREETING,
    NONCE_SIZE,
    PROOF_SIZE,
    AuthenticationError,
    ClientProver,
    NotRaydaskError,
    Prover,
    ServerProver,
)

SECRET = "a secret of the cluster"
ONE = bytes(range(NONCE_SIZE))
TWO = bytes(reversed(ONE))

CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def server(secret: str = SECRET, nonce: bytes = ONE) -> ServerProver:
    return ServerProver(secret, nonce)


def client(secret: str = SECRET, nonce: bytes = TWO) -> ClientProver:
    return ClientProver(secret, nonce)


def feed(prover: Prover, data: bytes, cuts: list[int]) -> bytes:
    """Feed the data in pieces of these sizes, over and over."""
    answer = b""
    turn = 0
    while data:
        size = cuts[turn % len(cuts)]
        answer += prover.feed(data[:size])
        data = data[size:]
        turn += 1
    return answer


@given(CUTS, st.binary(max_size=50), st.binary(max_size=50))
def test_both_ends_are_sure_however_the_bytes_are_cut(
    cuts: list[int], after_client: bytes, after_server: bytes
) -> None:
    listening, connecting = server(), client()
    proof = feed(connecting, listening.begin(), cuts)
    assert not connecting.done
    answer = feed(listening, proof + after_client, cuts)
    assert listening.done
    assert feed(connecting, answer + after_server, cuts) == b""
    assert connecting.done
    assert listening.take_rest() == after_client
    assert connecting.take_rest() == after_server


def test_a_client_with_another_secret_is_refused() -> None:
    listening = server()
    proof = client("a secret of another").feed(listening.begin())
    with pytest.raises(AuthenticationError, match="secret is another"):
        listening.feed(proof)
    assert not listening.done


def test_a_server_that_does_not_know_the_secret_is_found_out() -> None:
    connecting = client()
    connecting.feed(server().begin())
    with pytest.raises(AuthenticationError, match="does not know"):
        connecting.feed(bytes(PROOF_SIZE))
    assert not connecting.done


def test_a_proof_is_of_no_use_on_another_connection() -> None:
    proof = client().feed(server(nonce=ONE).begin())
    with pytest.raises(AuthenticationError):
        server(nonce=TWO).feed(proof)


def test_a_servers_proof_does_not_pass_for_a_clients() -> None:
    """Whoever knows nothing cannot have one server answer the question of another."""
    asked = server(nonce=ONE)
    oracle = server(nonce=TWO)
    for proof in (oracle.begin()[len(GREETING) :] + bytes(PROOF_SIZE), asked.begin() + bytes(24)):
        with pytest.raises(AuthenticationError):
            asked.feed(proof)
        asked = server(nonce=ONE)


@given(st.binary(min_size=NONCE_SIZE + PROOF_SIZE, max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(AuthenticationError):
        server().feed(data)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH", b"x", b"raydask\x02" + ONE])
def test_what_speaks_another_protocol_is_recognized_at_once(greeting: bytes) -> None:
    says = "another version" if greeting.startswith(b"raydask") else "does not speak raydask"
    with pytest.raises(AuthenticationError, match=says) as raised:
        client().feed(greeting)
    assert isinstance(raised.value, NotRaydaskError) is not greeting.startswith(b"raydask")


def test_too_little_is_waited_for() -> None:
    assert server().feed(bytes(NONCE_SIZE + PROOF_SIZE - 1)) == b""
    assert client().feed(GREETING[:3]) == b""


def test_what_a_lost_connection_means() -> None:
    connecting = client()
    assert "closed the connection" in connecting.if_lost()
    connecting.feed(server().begin())
    assert "does not accept" in connecting.if_lost()
    assert "without a proof" in server().if_lost()


def test_what_silence_means() -> None:
    connecting = client()
    assert "does not seem to be raydask" in str(connecting.if_silent())
    connecting.feed(server().begin())
    assert connecting.if_silent() is None
    assert server().if_silent() is None
