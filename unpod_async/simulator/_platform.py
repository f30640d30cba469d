"""The platform without HTTP: who may read what, and what the answer is."""

import re
from typing import Any, NamedTuple
from urllib.parse import quote

from ._lists import Churn, Count, Listing, ListReader, View
from ._messages import Reply, Request, envelope, error_page, plain
from ._paging import number
from ._rows import FOREIGN, OWN
from .world import World

PREFIX = "/api/v2/platform/"
ORGANIZATION = {
    "id": 1,
    "name": "Acme Voice",
    "token": "ORGTOKEN1111EXAMPLE00000",
    "domain": "acme-voice.example.com",
    "domain_handle": "acme-voice",
    "is_private_domain": False,
    "role": "owner",
    "created_at": "2024-01-15T10:30:00Z",
}
SPACE = {
    "id": "sp_001",
    "name": OWN.name,
    "slug": "sales-outreach",
    "token": OWN.token,
    "description": "Calls to people who asked for one.",
    "logo": None,
    "privacy_type": "private",
    "space_type": "general",
    "content_type": "contact",
    "agent_handle": OWN.agent_handle,
    "organization": {"name": "Acme Voice", "domain_handle": "acme-voice"},
    "created_at": "2026-01-10T08:00:00Z",
}


class Platform(ListReader):
    """One account with one space; answers any `Request`. See `Simulator` for the options."""

    space_token = OWN.token
    foreign_space_token = FOREIGN.token
    agent_handle = OWN.agent_handle
    org_handle = "acme-voice"
    token = "simulated-api-token"
    viewer_token = "simulated-viewer-token"
    blacklisted_token = "simulated-blacklisted-token"
    bearer = "simulated-bearer-token"
    require_org = True
    token_scheme_lists = True

    def __init__(
        self, world: World, churn: Churn | None, count: Count, max_page_size: int | None
    ) -> None:
        super().__init__(world, churn, count, max_page_size)
        self.foreign_world = World(runs=2, tasks=7, space=FOREIGN)

    def respond(self, request: Request, view: View) -> Reply:
        """The answer to any request. Applies the churn of this request, if it reads a list."""
        frame = {"X-Frame-Options": "DENY"}
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if credentials == self.blacklisted_token:
            body = b'{"message": "Unauthorized Access", "error": "Expired Auth Token"}'
            return Reply(401, body, frame)
        route, names = _route(request.path)
        if route is None:
            return _no_such_page(request)
        reply = self._refuse_user(route, scheme.lower(), credentials)
        if reply is None and request.method not in ("GET", "HEAD", "OPTIONS"):
            reply = plain(405, f'Method "{request.method}" not allowed.')
        reply = reply or getattr(self, route.method)(request, view, **names)
        reply.headers = {"Allow": route.allow, **frame, **reply.headers}
        return reply

    def _refuse_user(self, route: "_Route", scheme: str, credentials: str) -> Reply | None:
        """401 in one of its forms, each with the challenge of the route's first scheme."""
        known = {"token": (self.token, self.viewer_token), "bearer": (self.bearer,)}
        if route.jwt and not self.token_scheme_lists:
            del known["token"]
        challenge = 'JWT realm="api"' if route.jwt else "Token"
        if scheme not in known:
            text = "Authentication credentials were not provided."
            return plain(401, text, WWW_Authenticate=challenge)
        if credentials not in known[scheme]:
            return plain(401, "Invalid token.", WWW_Authenticate=challenge)
        return None

    # One method for each route

    def runs(self, request: Request, view: View, space: str) -> Reply:
        listing = Listing(self._world_of(request), "runs", "Runs Fetch Failed")
        return self._refuse_space(request, space) or self.read(request, view, listing)

    def run_tasks(self, request: Request, view: View, space: str, run: str) -> Reply:
        listing = Listing(self._world_of(request), "tasks", "Runs Fetch Failed", run)
        return self._refuse_space(request, space) or self.read(request, view, listing)

    def space_tasks(self, request: Request, view: View, space: str) -> Reply:
        listing = Listing(self._world_of(request), "tasks", "Tasks Fetch Failed")
        return self._refuse_space(request, space) or self.read(request, view, listing)

    def agent_tasks(self, request: Request, view: View, agent: str) -> Reply:
        if agent != self.agent_handle:
            return Reply(404, {"message": "Agent not found"})
        sizes = (request.query.get(key, "1") for key in ("page", "page_size"))
        if any(number(size) is None for size in sizes):  # only this list minds
            return error_page(500, "Server Error")
        return self.read(request, view, Listing(self.world, "agent", "Tasks Fetch Failed"))

    def spaces(self, request: Request, _: View) -> Reply:
        if reply := self._refuse_org(request, "Organization not found"):
            return reply
        return _whole_list("Spaces fetched successfully", [SPACE])

    def space(self, request: Request, _: View, space: str) -> Reply:
        if reply := self._refuse_org(request, "Space not found"):
            return reply
        if space != self.space_token:
            return Reply(404, {"message": "Space not found"})
        return envelope(200, "Space fetched successfully", data=SPACE)

    def organizations(self, _: Request, __: View) -> Reply:
        return _whole_list("Organizations fetched successfully", [ORGANIZATION])

    def _refuse_org(self, request: Request, unknown: str) -> Reply | None:
        asked = request.headers.get("Org-Handle")
        if not asked and self.require_org:
            return envelope(400, "Organization handle is required in Org-Handle header")
        return Reply(404, {"message": unknown}) if asked not in (self.org_handle, None) else None

    def _refuse_space(self, request: Request, space: str) -> Reply | None:
        if space == self.foreign_space_token:
            return envelope(206, "You Don't have Access to this Space")
        if space != self.space_token:
            return envelope(206, "Invalid Space Token")
        if request.headers["Authorization"].endswith(f" {self.viewer_token}"):
            return envelope(206, "You Don't have Access to do operation to this Space")
        return None

    def _world_of(self, request: Request) -> World:
        """A `space_id` in the query wins over the space in the path: the server's own hole."""
        asked = request.query.get("space_id", OWN.id)
        worlds = {OWN.id: self.world, FOREIGN.id: self.foreign_world}
        return worlds.get(asked) or World(runs=0, tasks=0)


class _Route(NamedTuple):
    pattern: str
    method: str
    allow: str = "GET, HEAD, OPTIONS"
    jwt: bool = False


ROUTES = (
    _Route(r"spaces/(?P<space>[^/]+)/runs/", "runs"),
    _Route(r"spaces/(?P<space>[^/]+)/runs/(?P<run>[^/]+)/tasks/", "run_tasks"),
    _Route(r"spaces/(?P<space>[^/]+)/tasks/", "space_tasks", "GET, POST, HEAD, OPTIONS"),
    _Route(r"agents/(?P<agent>[^/]+)/tasks/", "agent_tasks"),
    _Route(r"spaces/", "spaces", jwt=True),
    _Route(r"spaces/(?P<space>[^/]+)/", "space", jwt=True),
    _Route(r"organizations/", "organizations", jwt=True),
)


def _route(path: str) -> tuple[_Route | None, dict[str, str]]:
    for route in ROUTES:
        found = re.fullmatch(PREFIX + route.pattern, path)
        if found:
            return route, found.groupdict()
    return None, {}


def _no_such_page(request: Request) -> Reply:
    if _route(f"{request.path}/")[0] is None:
        return error_page(404, "Page not found")
    query = f"?{request.query_string}" if request.query_string else ""
    location = f"{quote(request.path)}/{query}"
    return Reply(301, "", {"Location": location, "Vary": "Accept-Language, Cookie, origin"})


def _whole_list(message: str, rows: list[dict[str, Any]]) -> Reply:
    head = {"count": len(rows), "status_code": 200, "message": message}
    return Reply(200, {**head, "data": rows})
