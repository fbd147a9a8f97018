"""Views: directory trees outside the store, made for engines, whose blobs must stay.

A view is a row of the catalog, so it outlasts this process, and a lease. A tree that is made anew gets a row of its own
before it takes the place of the one before, whose row goes afterwards: whatever is cut short, both have their blobs.
"""

from contextlib import ExitStack

from nekko.errors import ViewUnknownError
from nekko.oci.digest import Digest
from nekko.store.catalog import Catalog
from nekko.store.content import NewView, View
from nekko.store.leases import Leases


class Views:
    """The views of one store, with their leases."""

    def __init__(self, catalog: Catalog, leases: Leases) -> None:
        """Take up the leases of the views that there are."""
        self._catalog = catalog
        self._leases = leases
        self._views: dict[int, View] = {}
        self._held: dict[int, ExitStack] = {}
        for view in catalog.views():
            self._hold(view)

    def add(self, wanted: NewView) -> View:
        """Record a view and keep its blobs. Durable after the catalog's `sync`."""
        view = self._catalog.add_view(wanted)
        self._hold(view)
        return view

    def all(self) -> list[View]:
        """Give every view, the oldest first."""
        return list(self._views.values())

    def of(self, directory: str) -> list[View]:
        """Give the views of a directory: one, or more where one was being made anew."""
        return [view for view in self._views.values() if view.directory == directory]

    def drop(self, number: int) -> list[Digest]:
        """Forget a view; give what it kept, which may be `collect`ed now.

        Raises:
            ViewUnknownError: There is none of that number.
        """
        view = self._views.get(number)
        if view is None:
            raise ViewUnknownError(number)
        kept = self._catalog.viewed(view)
        self._catalog.drop_view(view)
        del self._views[number]
        self._held.pop(number).close()
        return kept

    def _hold(self, view: View) -> None:
        held = ExitStack()
        lease = held.enter_context(self._leases.hold(view.directory))
        for digest in self._catalog.viewed(view):
            lease.add(digest)
        self._views[view.id] = view
        self._held[view.id] = held
