"""Who asks, and what they may do.

Where a ``users.toml`` is configured, it alone decides. Without one, whoever reaches the loopback may send
and read, as at the broker's own port, and elsewhere nobody may do anything but look at health, metrics and
status. Nobody administers without a token.

A browser on the machine carries out what strange pages tell it, so being on the loopback is not enough:

- what a page of another origin sends is refused (``Sec-Fetch-Site``, ``Origin``);
- without a token the broker must be addressed by a name that is its own, or by an IP address: a name that an
  attacker has pointed at the loopback is neither;
- forms and calls that belong to a signed-in browser carry a word that only our own pages know.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from hmac import compare_digest
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import attrs
import trio

from metaserver.config.users import Role
from metaserver.http.problems import ProblemError
from metaserver.rates import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from metaserver.config.users import User, Users

SESSION_SECONDS: Final = 12 * 3600.0
"""A browser has to sign in again after this time."""
SESSIONS_MAX: Final = 256
"""Browsers that are signed in; the one that signed in first gives way."""
CSRF_HEADER: Final = "x-csrf-token"
_PEERS_MAX: Final = 1024
"""Addresses whose rates are remembered; the one remembered longest is forgotten."""
_WRONG_TOKENS_PER_SECOND: Final = 2.0
_WRONG_TOKENS_BURST: Final = 10
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

NOT_OPEN: Final = (
    "this broker listens beyond the loopback and has no users: write httpUsersFile=conf/users.toml into "
    "server.ini (docs/http.md), or bindAddress=127.0.0.1"
)


@attrs.define(eq=False)
class SignedIn:
    """A browser that has shown a token once."""

    user: User
    until: float
    csrf: str
    """Stands in every form of our pages, and nowhere else."""


@attrs.frozen
class Visitor:
    """Who makes a request."""

    name: str
    """``-`` where it is not known."""
    role: Role
    signed_in: SignedIn | None = None

    @property
    def csrf(self) -> str:
        """For the forms of the page."""
        return "" if self.signed_in is None else self.signed_in.csrf

    def check_csrf(self, given: str) -> None:
        """Raises ProblemError where a signed-in browser sends what does not come from our own pages."""
        if self.signed_in is not None and not compare_digest(given.encode(), self.csrf.encode()):
            raise ProblemError(403, "the form is too old, or not ours: load the page again")


@attrs.define(eq=False)
class Access:
    """The doorkeeper of one HTTP port."""

    _users: Callable[[], Users | None]
    is_loopback: bool
    """Whether the port can be reached from this machine only."""
    own_hosts: frozenset[str]
    """Names of this broker, in lower case."""
    _requests_per_second: int
    _signed_in: dict[str, SignedIn] = attrs.Factory(dict)
    _rates: dict[str, TokenBucket] = attrs.Factory(dict)
    _wrong_tokens: TokenBucket = attrs.Factory(
        lambda: TokenBucket(_WRONG_TOKENS_PER_SECOND, _WRONG_TOKENS_BURST)
    )

    def admit(self, request: Request, needed: Role, *, is_page: bool = False) -> Visitor:
        """Who it is; raises ProblemError where the request must not be carried out.

        ``is_page``: it shows something in a browser, so a link from elsewhere may lead there, and a form
        brings its word in its body (:meth:`Visitor.check_csrf`).
        """
        self.count(request)
        is_safe = request.method in _SAFE_METHODS
        if not (is_page and is_safe):
            _refuse_other_origins(request)
        visitor = self._identify(request)
        if visitor.name == "-":
            self._check_host(request, visitor)
        if visitor.role < needed:
            raise self._refusal(visitor, needed)
        if not is_page and not is_safe:
            visitor.check_csrf(request.headers.get(CSRF_HEADER, ""))
        return visitor

    def look(self, request: Request) -> Visitor:
        """Who it is, for a page that everybody may see."""
        self.count(request)
        return self._identify(request)

    def count(self, request: Request) -> None:
        """Raises ProblemError where one address asks too often."""
        if not self._requests_per_second:
            return
        peer = "" if request.client is None else request.client.host
        bucket = self._rates.get(peer)
        if bucket is None:
            if len(self._rates) >= _PEERS_MAX:
                del self._rates[next(iter(self._rates))]
            bucket = TokenBucket(self._requests_per_second, 2 * self._requests_per_second)
            self._rates[peer] = bucket
        _reserve(bucket, "too many requests from this address (httpRequestsPerSecond)")

    def sign_in(self, token: str) -> tuple[str, SignedIn]:
        """What a browser keeps, and what it stands for. Raises ProblemError where the token is nobody's."""
        user = self._user_of(token)
        while len(self._signed_in) >= SESSIONS_MAX:
            del self._signed_in[next(iter(self._signed_in))]
        key = secrets.token_urlsafe(32)
        found = SignedIn(user, trio.current_time() + SESSION_SECONDS, secrets.token_urlsafe(32))
        self._signed_in[key] = found
        return key, found

    def sign_out(self, request: Request) -> None:
        """Forget a browser."""
        self._signed_in.pop(request.cookies.get(cookie_name(request), ""), None)

    def _identify(self, request: Request) -> Visitor:
        token = _token_of(request)
        if token is not None:
            user = self._user_of(token)
            return Visitor(user.name, user.role)
        key = request.cookies.get(cookie_name(request))
        signed_in = None if key is None else self._signed_in.get(key)
        if key is not None and signed_in is not None:
            if trio.current_time() < signed_in.until and self._is_still(signed_in.user):
                return Visitor(signed_in.user.name, signed_in.user.role, signed_in)
            del self._signed_in[key]
        users = self._users()
        if users is None:
            return Visitor("-", Role.WRITE if self.is_loopback else Role.NONE)
        return Visitor("-", users.anonymous)

    def _is_still(self, user: User) -> bool:
        """Whether a file that was read again says the same of somebody."""
        users = self._users()
        return users is not None and user in users.by_digest.values()

    def _user_of(self, token: str) -> User:
        users = self._users()
        user = None if users is None else users.find(token)
        if user is None:
            _reserve(self._wrong_tokens, "too many wrong tokens")
            raise ProblemError(401, "the token is not known here", headers=_CHALLENGE)
        return user

    def _check_host(self, request: Request, visitor: Visitor) -> None:
        host = _host_of(request.headers.get("host", ""))
        users = self._users()
        known = self.own_hosts if users is None else self.own_hosts | users.hosts
        if visitor.role > Role.NONE and host not in known and not _is_address(host):
            raise ProblemError(
                421,
                f"{host[:100]!r} is no name of this broker: use its address, or a token, or add the name to "
                "hosts in httpUsersFile",
            )

    def _refusal(self, visitor: Visitor, needed: Role) -> ProblemError:
        users = self._users()
        if users is None and not self.is_loopback:
            return ProblemError(403, NOT_OPEN)
        if visitor.name != "-":
            return ProblemError(
                403, f"{visitor.name} has the role {visitor.role.word}; this needs {needed.word}"
            )
        if users is None:
            return ProblemError(
                401,
                f"this needs a token with the role {needed.word}, and there are none: write httpUsersFile "
                "into server.ini (docs/http.md)",
                headers=_CHALLENGE,
            )
        text = f"this needs a token with the role {needed.word}: Authorization: Bearer TOKEN"
        return ProblemError(401, text, headers=_CHALLENGE)


_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="metaserver"'}


def cookie_name(request: Request) -> str:
    """Cookies do not know ports, and two brokers may share a machine."""
    server = request.scope.get("server") or ("", 0)
    return f"metaserver_{server[1]}"


def _reserve(bucket: TokenBucket, text: str) -> None:
    seconds = bucket.reserve(1, trio.current_time())
    if seconds > 0:
        bucket.give_back(1)
        retry = str(int(seconds) + 1)
        raise ProblemError(429, f"{text}; try again in {retry} s", headers={"retry-after": retry})


def _refuse_other_origins(request: Request) -> None:
    site = request.headers.get("sec-fetch-site", "none")
    origin = request.headers.get("origin")
    own = request.headers.get("host", "").lower()
    is_foreign = origin is not None and urlsplit(origin).netloc.lower() != own
    if site not in ("none", "same-origin") or is_foreign:
        raise ProblemError(403, "a page of another origin sent this request")


def _token_of(request: Request) -> str | None:
    """What ``Authorization`` holds: a bearer token, or the password of ``NAME:TOKEN``; None for nothing."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    raise ProblemError(401, "Authorization must be Bearer TOKEN, or Basic", headers=_CHALLENGE)


def _host_of(header: str) -> str:
    """Without the port and the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
