"""Access control of the gateway: keys, tokens, limits, origins."""

from .access import Access, credentials_of, secret_of
from .admission import Admission, Refusals
from .credentials import Credentials, credentials
from .credits import Balance, Credits
from .grant import Grant
from .keyring import Keyring
from .origins import Origins
from .refused import Reason, Refused
from .settings import AccessSettings
from .tokens import Tokens

__all__ = [
    "Access",
    "AccessSettings",
    "Admission",
    "Balance",
    "Credentials",
    "Credits",
    "Grant",
    "Keyring",
    "Origins",
    "Reason",
    "Refusals",
    "Refused",
    "Tokens",
    "credentials",
    "credentials_of",
    "secret_of",
]
