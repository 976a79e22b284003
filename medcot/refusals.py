"""Every failure of a hub in one plain sentence that says what to do; parameters that are wrong exit 2, machine and network 3."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from medcot.errors import DataError, MachineError, MedcotError
from medcot.web import httpx

BUSY = {408, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a failure happened, for its sentence.

    hub       as its users call it
    kind      model | dataset
    repo      its id
    revision  as asked for
    section   of params.yaml that named them
    endpoint  variable with the address of the hub or of a mirror
    token     variable with the access token, and whether it is set
    """

    hub: str
    kind: str
    repo: str
    revision: str
    section: str
    endpoint: str
    token: str
    has_token: bool

    def __str__(self) -> str:
        return f"{self.hub}: {self.repo}"

    def param(self, key: str) -> str:
        """A key of that section, as the place of an error."""
        return f"params.yaml: {self.section}.{key}"

    def no_revision(self) -> DataError:
        """The error for a commit, branch or tag that is not there."""
        remedy = "give a commit, branch or tag that it has"
        return DataError(self.param("revision"), f"{self.repo} has no such revision", remedy, got=self.revision)

    def no_hub(self, got: str | None) -> MachineError:
        """The error for an answer that is not in the hub's protocol."""
        remedy = f"look at {self.endpoint}, and for a login page or proxy in between"
        return MachineError(str(self), "the answer is not that of a hub", remedy, got=got)


class BusyError(Exception):
    """A failure of the server that may pass; carries the error to show when it does not."""

    def __init__(self, refusal: MedcotError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def check_status(status: int, headers: httpx.Headers, place: Place, path: str = "") -> None:
    """Turn a failure's status into the error that says what to do; BusyError where another try may help."""
    if status < 400:
        return
    if status in BUSY:
        remedy = f"try again later, or set {place.endpoint} to a mirror"
        raise BusyError(MachineError(str(place), f"the hub fails ({status})", remedy))
    raise refused(status, headers, place, path)


def refused(status: int, headers: httpx.Headers, place: Place, path: str) -> MedcotError:
    """The error for a status that no repetition changes; Hugging Face tells more in headers of its own."""
    noun = "data set" if place.kind == "dataset" else "model"
    code, message = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
    if status == 429:
        wait = headers.get("Retry-After")
        remedy = f"wait {wait} s (Retry-After)" if wait else "wait some minutes"
        more = "" if place.has_token else f"; a token in {place.token} raises the limit"
        return MachineError(str(place), "the hub asks for fewer requests (429)", f"{remedy} and run again{more}")
    if code == "GatedRepo":
        remedy = "its page says how to get access; then run again"
        remedy = remedy if place.has_token else f"accept its conditions on its page, then set {place.token} to a token of that account"
        return MachineError(str(place), f"the {noun} is gated, and access is not granted", remedy)
    if code == "RevisionNotFound":
        return place.no_revision()
    if status == 404 and path and code != "RepoNotFound":
        return MachineError(
            f"{place}: {path}", "the hub lists the file and has not got it (404)", f"set {place.endpoint} to another mirror"
        )
    if status == 401 and place.has_token:
        return MachineError(str(place), f"the hub does not accept the token in {place.token}", "make a new one, or unset it")
    if status == 403:
        remedy = f"check what the token in {place.token} may read" if place.has_token else f"set {place.token}"
        return MachineError(str(place), "access is forbidden (403)", remedy)
    if status in (401, 404):
        access = f"what the token in {place.token} may read" if place.has_token else f"whether it is private: then set {place.token}"
        cause = f"{place.hub} has no such {noun}, or does not show it"
        return DataError(place.param("repo"), cause, f"check the name, and {access}", got=place.repo)
    return MachineError(str(place), f"the hub refuses the request ({status})", f"check {place.endpoint}", got=message or None)


def unreachable(error: httpx.RequestError, place: Place) -> MachineError:
    """Say which step towards the hub failed: name, connection, certificate, answer or transfer."""
    host, causes = error.request.url.host, list(_causes(error))
    mirror = f"check the network, or set {place.endpoint} to a mirror that you can reach"
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):  # the latter's text may hold a header, and so a token
        return place.no_hub(str(error) if isinstance(error, httpx.UnsupportedProtocol) else None)
    scheme = error.request.url.scheme
    proxies = urllib.request.getproxies()
    if (scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host) and isinstance(error, httpx.ConnectError):
        remedy = "check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or name the host in NO_PROXY"
        return MachineError(str(place), f"no connection to the proxy on the way to {host}", remedy, got=str(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return MachineError(str(place), f"the name {host} cannot be resolved (DNS)", mirror)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return MachineError(str(place), f"no trusted connection to {host}", "check clock, proxy and certificates", got=str(error))
    if isinstance(error, httpx.ProxyError):
        return MachineError(str(place), "the proxy refuses the connection", "check HTTPS_PROXY", got=str(error))
    if isinstance(error, httpx.TimeoutException):
        return MachineError(str(place), f"no answer from {host} in time", mirror)
    if isinstance(error, httpx.ConnectError):
        return MachineError(str(place), f"no connection to {host}", mirror, got=str(error))
    if isinstance(error, httpx.TransportError):
        return MachineError(str(place), f"the connection to {host} broke off", "run again: it goes on where it stopped")
    return place.no_hub(str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
