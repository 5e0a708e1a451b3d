"""natterjack: live speech to live transcripts over NATS.

The API for downstream services::

    async for event in natterjack.listen(tenant="acme", since="start"):
        if event.type == "final":
            print(event.speaker, event.text)
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; `typing` takes long to import
if TYPE_CHECKING:
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Import the API at its first use, so that our programs are in charge of Ctrl-C before."""
        if not name.startswith("__") or name == "__all__":
            api = import_module(".api", __name__)
            for namespace in (globals(), vars(api)):  # the first has the modules that it imported
                if name in namespace:
                    return namespace[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), *import_module(".api", __name__).__all__]
