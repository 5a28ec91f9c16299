import enum

from ..access import Role
from ..language import N_
from ..lifecycle import Lifecycle


class AnnouncementState(enum.StrEnum):
    PUBLISHED = "published"
    WITHDRAWN = "withdrawn"


S = AnnouncementState
LIFE = Lifecycle("announcement", AnnouncementState, {S.PUBLISHED: frozenset({S.WITHDRAWN})})

# Who may be meant beside a role: everybody who opens the portal, or everybody who is signed in.
PUBLIC, EVERYBODY = "public", "everybody"
AUDIENCE_NAMES: dict[str, str] = {
    PUBLIC: N_("Everybody, also before signing in"),
    EVERYBODY: N_("Everybody who is signed in"),
    Role.MEMBER: N_("Members of enterprises"),
    Role.MANAGER: N_("Enterprise managers"),
    Role.OPERATOR: N_("Operators"),
    Role.FINANCE: N_("Finance"),
    Role.AUDITOR: N_("Auditors"),
    Role.ADMIN: N_("Administrators"),
}
