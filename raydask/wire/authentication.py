"""Proving to one another that both ends of a connection know the cluster's secret. Pure.

::

    client                                   server
      <--- GREETING (8), server's nonce (32) ---
      ---- client's nonce (32), proof (32) ---->
      <--- proof (32) ---------------------------

A proof is the HMAC-SHA256, under the secret, of the role of whoever proves, the greeting and both
nonces: it can be made only by who knows the secret, and is of no use on another connection or in
the other direction.  Nothing else that a stranger sends is looked at.  This protects from
strangers; against who can read or change what passes by, use TLS.
"""

from __future__ import annotations

GREETING = b"raydask\x01"
"""The protocol's name and version."""
NONCE_SIZE = 32
PROOF_SIZE = 32
"""Bytes of a SHA-256."""


class AuthenticationError(ConnectionError):
    """The other end is no part of this cluster."""


class NotRaydaskError(AuthenticationError):
    """What listens there does not seem to be raydask at all."""


class Prover:
    """One end's part of the exchange; how its two kinds take turns is theirs.

    Parameters
    ----------
    secret : str
    nonce : bytes
        ``NONCE_SIZE`` random bytes, used only once.

    Attributes
    ----------
    done : bool
        Whether both ends know enough.
    """

    def __init__(self, secret: str, nonce: bytes) -> None:
        self._secret = secret.encode()
        self._nonce = nonce
        self._received = bytearray()
        self.done = False

    def begin(self) -> bytes:
        """Return what is to be sent before anything has come."""
        return b""

    def feed(self, data: bytes) -> bytes:
        """Take in what has come; return what is to be sent.

        Raises
        ------
        AuthenticationError
            Close the connection.
        """
        raise NotImplementedError

    @property
    def wanted(self) -> int:
        """How many more bytes it waits for; what comes after those may be no part of it."""
        return 0 if self.done else self._expected() - len(self._received)

    def if_lost(self) -> str:
        """Return what it means that the other end closes the connection now."""
        return "it went away without a proof"

    def if_silent(self) -> AuthenticationError | None:
        """Return what it means that the other end says no more for too long; None: it is slow."""
        return None

    def take_rest(self) -> bytes:
        """Return what came after the exchange."""
        rest = bytes(self._received)
        self._received.clear()
        return rest

    def _expected(self) -> int:
        raise NotImplementedError

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _proof(self, role: bytes, servers: bytes, clients: bytes) -> bytes:
        import hmac  # with OpenSSL's digests: only a process that others connect to has them

        return hmac.digest(self._secret, role + GREETING + servers + clients, "sha256")

    def _accepts(self, proof: bytes, role: bytes, servers: bytes, clients: bytes) -> bool:
        import hmac

        return hmac.compare_digest(proof, self._proof(role, servers, clients))


class ServerProver(Prover):
    """The end that listens."""

    def begin(self) -> bytes:
        """Return the greeting."""
        return GREETING + self._nonce

    def feed(self, data: bytes) -> bytes:
        """Look at the client's proof when it is here, and answer it."""
        self._received += data
        if self.done or len(self._received) < NONCE_SIZE + PROOF_SIZE:
            return b""
        clients, proof = self._take(NONCE_SIZE), self._take(PROOF_SIZE)
        if not self._accepts(proof, b"client", self._nonce, clients):
            raise AuthenticationError("its secret is another than this cluster's")
        self.done = True
        return self._proof(b"server", self._nonce, clients)

    def _expected(self) -> int:
        return NONCE_SIZE + PROOF_SIZE


def _stranger(greeting: bytes) -> AuthenticationError:
    """Return what it means that a server's first bytes are none of ours."""
    name = GREETING[:-1]
    if greeting.startswith(name):
        return AuthenticationError("what listens there speaks another version of this protocol")
    return NotRaydaskError("what listens there does not speak raydask's protocol")


class ClientProver(Prover):
    """The end that connects."""

    def __init__(self, secret: str, nonce: bytes) -> None:
        super().__init__(secret, nonce)
        self._servers = b""

    def if_lost(self) -> str:
        """Return what it means that the other end closes the connection now."""
        if self._servers:
            return "what listens there does not accept this secret"
        return "what listens there closed the connection at once; it may have too many"

    def if_silent(self) -> AuthenticationError | None:
        """Return what it means that the other end says no more for too long; None: it is slow."""
        if self._servers:
            return None
        return NotRaydaskError(
            "what listens there says nothing: it does not seem to be raydask, unless it hangs or "
            "wants TLS"
        )

    def feed(self, data: bytes) -> bytes:
        """Answer the greeting; then look at the server's proof."""
        self._received += data
        if not self._servers:
            known = min(len(GREETING), len(self._received))
            if self._received[:known] != GREETING[:known]:
                raise _stranger(bytes(self._received))
            if len(self._received) < len(GREETING) + NONCE_SIZE:
                return b""
            self._take(len(GREETING))
            self._servers = self._take(NONCE_SIZE)
            return self._nonce + self._proof(b"client", self._servers, self._nonce)
        if self.done or len(self._received) < PROOF_SIZE:
            return b""
        proof = self._take(PROOF_SIZE)
        if not self._accepts(proof, b"server", self._servers, self._nonce):
            raise AuthenticationError("what listens there does not know this cluster's secret")
        self.done = True
        return b""

    def _expected(self) -> int:
        return PROOF_SIZE if self._servers else len(GREETING) + NONCE_SIZE
