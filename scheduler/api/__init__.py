"""What programs see over HTTP: events and jobs in, status, plan, series, metrics and health out.

Why a package of its own: it speaks only to `scheduler.service.Service`, so it can be tested against a fake daemon and
can be left out of a process that has no use for it (a backtest, a node agent).
"""

from scheduler.api.app import create_app
from scheduler.api.server import ApiServer
from scheduler.api.settings import ApiSettings, Token
from scheduler.listening import ServerError

__all__ = ["ApiServer", "ApiSettings", "ServerError", "Token", "create_app"]
