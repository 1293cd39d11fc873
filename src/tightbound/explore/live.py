"""The explorer on a kernel."""

from __future__ import annotations

import anywidget
import traitlets

from tightbound.explore.explorer import SOURCE, Explorer, answer


class ExplorerWidget(anywidget.AnyWidget):
    """An explorer's live form. `params` holds the controls' values, in both directions; `frame` answers them."""

    _esm = SOURCE.read_text()
    spec = traitlets.Dict().tag(sync=True)
    params = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: Explorer, **options):
        self._explorer = explorer
        super().__init__(spec=explorer.spec, params=dict(explorer.start), frame=answer(explorer, explorer.start),
                         **options)
        self.on_msg(self._asked)

    def _asked(self, widget, content, buffers):
        """A hand has moved a control in the browser: sets `params`, and answers in one message."""
        if "params" in content:
            with self.hold_sync():
                self.params = content["params"]

    @traitlets.validate("params")
    def _whole(self, proposal):
        """Parameters left out keep their value; unknown ones are refused."""
        unknown = set(proposal["value"]) - set(self._explorer.start)
        if unknown:
            raise ValueError(f"no control is called {sorted(unknown)}: there are {list(self._explorer.start)}")
        return {**self._explorer.start, **self.params, **proposal["value"]}

    @traitlets.observe("params")
    def _answer(self, change):
        self.frame = answer(self._explorer, change["new"])
